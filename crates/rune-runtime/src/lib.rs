//! The engine: planner, models, dispatch, sessions, reconcile loop, replica router.
