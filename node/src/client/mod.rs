//! How a client uses storage nodes: it submits files, hands in their segments, and gets them back.
//!
//! [`node`] speaks to one node, [`indexer`] finds nodes, [`cover`] chooses as many of them as have all of the flow,
//! [`network`] leads to the chain, [`upload`] and [`download`] do the work. Nodes are strangers: every answer is bounded,
//! every segment is checked against the file's root, and a node that lies or fails is named and left out.

pub mod cover;
pub mod doctor;
pub mod download;
pub mod error;
pub mod indexer;
pub mod network;
pub mod node;
pub mod upload;

/// Who is told how the work goes on.
pub trait Progress: Send + Sync {
    /// A part of the work begins, with this many bytes to come.
    fn begin(&self, what: &'static str, bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// Something that a person wants to know.
    fn note(&self, text: &str);
}

/// Tells nobody.
impl Progress for () {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}
