//! What stands before both APIs of a node of a cluster: [`front`] has a request be answered where the engine runs, here or at
//! the node that leads, and [`cut`] breaks an answer off with the engine that gives it; [`follow`] has
//! streams of events go on at the next one.
//!
//! What must hold:
//!
//! * A request is answered by the engine of the leader, whichever node a client reached, as if it had come there.
//! * Nothing is asked twice that may have been done, unless the client has said that it is safe.
//! * What was sent on is not sent on again: a node that leads no more says so, and who asked looks again.

mod cut;
mod follow;
mod front;

pub use front::{Api, ClusterFront, Leading};
