//! What stands before both APIs of a node of a cluster: a [`socket`] takes what its own edge lets in, [`front`] has it be
//! answered where the engine runs, here or over the [`lane`] at the node that leads, and [`cut`] breaks an answer off with the
//! engine that gives it; [`follow`] has streams of events go on at the next one. [`ready`] says whether that works.
//!
//! What must hold:
//!
//! * A request is answered by the engine of the leader, whichever node a client reached, as if it had come there.
//! * Nothing is asked twice that may have been done, unless [`repeats`] knows that it is done once.
//! * Nobody whom this node does not let in costs more than the head of a request, here or at the leader.
//! * What was sent on is not sent on again: a node that leads no more says so, and who asked looks again.

mod consistency;
mod cut;
mod follow;
mod front;
mod lane;
mod ready;
mod repeats;
mod socket;
#[cfg(test)]
mod tests;

pub use front::{Api, ClusterFront, Leading};
