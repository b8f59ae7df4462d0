//! WebAssembly tools, called as the engine calls them.

mod audit;
mod calls;
mod files;
mod limits;
mod network;
mod sandbox;
