//! The backend seam: where replicas run.
