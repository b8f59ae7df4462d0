//! What every HTTP listener of Rune shares: serving, authentication, limits, errors.
