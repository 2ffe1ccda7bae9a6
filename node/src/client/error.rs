//! Why a file is not uploaded or downloaded.

use std::{fmt, io, path::PathBuf, time::Duration};

use alloy::primitives::Address;
use zgpu_core::{H256, file::FileError, shard::Shard};

use super::node::NodeError;
use crate::chain::{error::ChainError, upload::UploadError};

/// A node that is not used any more, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Dropped {
    /// The node.
    pub node: String,
    /// What it did.
    pub reason: String,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most reasons name the node already.
        if self.reason.contains(&self.node) {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.node, self.reason)
    }
}

/// Nodes that are not used, as a part of a sentence.
fn list(dropped: &[Dropped]) -> String {
    match dropped {
        [] => "no node failed".to_owned(),
        dropped => dropped.iter().map(Dropped::to_string).collect::<Vec<_>>().join("; "),
    }
}

/// Why a file is not uploaded or downloaded.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody to talk to.
    #[error("no node is named; give --node URL, or --indexer URL")]
    NoNodes,
    /// A node, or the indexer, does not answer.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The chain does not answer, or is another one.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The submission failed.
    #[error(transparent)]
    Submit(#[from] UploadError),
    /// The file cannot be described.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: FileError,
    },
    /// A file cannot be opened, read or written.
    #[error("{path} cannot be {done}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        done: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The file is not what its tree was made of.
    #[error("segment {index} of {path} changed while the file was uploaded; run the command again when it rests")]
    Changed {
        /// The file.
        path: PathBuf,
        /// The segment.
        index: u64,
    },
    /// Parts of the flow are kept by no node that works.
    #[error(
        "the nodes that work do not keep all of the file: {wanted} must keep shard {part} of the flow ({}); name more nodes",
        list(dropped)
    )]
    NotCovered {
        /// A part of the flow that is kept too little.
        part: Shard,
        /// Nodes that each part needs.
        wanted: usize,
        /// Nodes that are not used.
        dropped: Vec<Dropped>,
    },
    /// Nodes belong to different networks, and nothing says which one is meant.
    #[error("{node} serves chain {chain_id} with the flow contract {flow}, expected {expected}")]
    OtherNetwork {
        /// The node.
        node: String,
        /// Its chain.
        chain_id: u64,
        /// Its flow contract.
        flow: String,
        /// What it should be.
        expected: String,
    },
    /// A node names a flow contract that nobody knows on a network that is known.
    #[error(
        "{node} names {flow} as the flow contract of {network}, which is none that is known there; \
         what is paid to a wrong contract is lost: check the address, then give it with --flow"
    )]
    StrangeFlow {
        /// The node.
        node: String,
        /// The contract.
        flow: Address,
        /// The network.
        network: &'static str,
    },
    /// The file is not submitted, and nobody pays for that.
    #[error("the file with root {root} is not submitted yet; give a key that pays for it, and no --skip-tx")]
    NotSubmitted {
        /// Its root.
        root: H256,
    },
    /// A transaction of the account may be this submission, and does not end.
    #[error(
        "account {address} has {count} transactions that were in no block after {waited:?}; one of them may submit this \
         file: wait until they are mined, or replace them, and run the command again"
    )]
    StillPending {
        /// The account.
        address: Address,
        /// Its transactions that are waited for.
        count: u64,
        /// How long they were waited for.
        waited: Duration,
    },
    /// Not all nodes completed the file.
    #[error("transaction {seq} is not finalised after {waited:?} on {nodes}; run the command again to look once more")]
    NotFinalised {
        /// The transaction.
        seq: u64,
        /// Nodes that have not.
        nodes: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No node knows the file.
    #[error("no node knows {what} ({})", list(dropped))]
    Unknown {
        /// Root or transaction.
        what: String,
        /// Nodes that are not used.
        dropped: Vec<Dropped>,
    },
    /// Nodes tell different things about a file, and proofs do not tell who is right.
    #[error("nodes disagree about {what}: {claims}; leave out those that are wrong")]
    Disagree {
        /// Root or transaction.
        what: String,
        /// Who says what.
        claims: String,
    },
    /// A segment cannot be had.
    #[error(
        "segment {index} of {segments} cannot be had from any node ({}); run the command again to go on from there",
        list(dropped)
    )]
    Segment {
        /// The segment.
        index: u64,
        /// Segments of the file.
        segments: u64,
        /// Nodes that are not used, and what each of the others said.
        dropped: Vec<Dropped>,
    },
    /// There is a file already.
    #[error("{path} exists; give --force to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another program writes the partial file.
    #[error("{path} is being written by another download")]
    Locked {
        /// The partial file.
        path: PathBuf,
    },
    /// The disk is too small.
    #[error("{path} needs {needed} bytes more, the disk has {free}")]
    DiskFull {
        /// The partial file.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The whole is not the file that was asked for.
    #[error("the downloaded file has root {got}, expected {expected}; {hint}")]
    WrongRoot {
        /// Root of what was downloaded.
        got: H256,
        /// Root asked for.
        expected: H256,
        /// What to do.
        hint: &'static str,
    },
}
