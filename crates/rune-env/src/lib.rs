//! Platform configuration: defaults, file, environment and flags, read once into typed structs.
