//! The networks that are known by name, and the way from a flow contract to the chain's other contracts.

use std::{fmt, str::FromStr};

use alloy::{
    primitives::{Address, Bytes, address},
    rpc::types::TransactionRequest,
    sol_types::SolCall,
};
use futures::future::join_all;

use super::{error::ClientError, node::StorageNode, upload::identity_of};
use crate::chain::{
    client::{ChainClient, ChainOptions},
    contracts::{Flow, Market, Reward},
    error::ChainError,
    rpc::{Rpc, RpcOptions},
};

/// A network of the project that made the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// Id of its chain.
    pub chain_id: u64,
    /// Its public endpoint.
    pub rpc: &'static str,
    /// Its indexer of storage nodes.
    pub indexer: &'static str,
    /// Its flow contracts: the one that clients use (turbo), then the other one (standard).
    pub flows: [Address; 2],
}

/// Networks by name. Source: the network's deployments.
pub static NETWORKS: [Network; 2] = [
    Network {
        name: "mainnet",
        chain_id: 16661,
        rpc: "https://evmrpc.0g.ai",
        indexer: "https://indexer-storage-turbo.0g.ai",
        flows: [
            address!("62D4144dB0F0a6fBBaeb6296c785C71B3D57C526"),
            address!("2c2cd9a241186F6C0080e66CC47139B8B4A2E5fa"),
        ],
    },
    Network {
        name: "testnet",
        chain_id: 16602,
        rpc: "https://evmrpc-testnet.0g.ai",
        indexer: "https://indexer-storage-testnet-turbo.0g.ai",
        flows: [
            address!("22E03a6A89B950F1c82ec5e74F8eCa321a105296"),
            address!("0460aA47b41a66694c0a73f667a1b795A5ED3556"),
        ],
    },
];

/// No network has this name.
#[derive(Debug, thiserror::Error)]
#[error("no network is called {0:?}; there are mainnet and testnet")]
pub struct UnknownNetwork(String);

impl FromStr for &'static Network {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        NETWORKS.iter().find(|network| network.name == name).ok_or_else(|| UnknownNetwork(name.into()))
    }
}

/// Which chain and flow contract nodes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Id of the chain.
    pub chain_id: u64,
    /// The flow contract.
    pub flow: Address,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} with the flow contract {}", self.chain_id, self.flow)
    }
}

impl Identity {
    /// Refuses the flow contract that `node` names when it is on a known network and is none of its contracts: whoever
    /// is paid there may be the node itself.
    pub fn check_known(&self, node: &str) -> Result<(), ClientError> {
        match NETWORKS.iter().find(|network| network.chain_id == self.chain_id) {
            Some(network) if !network.flows.contains(&self.flow) => {
                Err(ClientError::StrangeFlow { node: node.to_owned(), flow: self.flow, network: network.name })
            }
            _ => Ok(()),
        }
    }
}

/// Asks nodes which network they belong to; all that answer have to agree, and it must be a network that makes sense.
pub async fn identify(nodes: &[StorageNode]) -> Result<Identity, ClientError> {
    let mut found: Option<Identity> = None;
    let mut failure = ClientError::NoNodes;
    for (node, state) in nodes.iter().zip(join_all(nodes.iter().map(StorageNode::state)).await) {
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                failure = error.into();
                continue;
            }
        };
        match (identity_of(&state), found) {
            (Some(identity), None) => {
                identity.check_known(node.url())?;
                found = Some(identity);
            }
            (Some(identity), Some(found)) if identity == found => {}
            (_, found) => {
                return Err(ClientError::OtherNetwork {
                    node: node.url().to_owned(),
                    chain_id: state.chain_id,
                    flow: state.flow_address,
                    expected: found.map_or_else(|| "an address".to_owned(), |found| found.to_string()),
                });
            }
        }
    }
    found.ok_or(failure)
}

/// Connects to the chain of a flow contract. The mine contract follows from it: the flow names its market, that its
/// reward contract, and that its mine contract; the usual checks of all of them come after that.
pub async fn connect(
    url: &str,
    rpc: RpcOptions,
    chain_id: Option<u64>,
    flow: Address,
) -> Result<ChainClient, ChainError> {
    let asking = Rpc::new(url, rpc.clone())?;
    let market = ask(&asking, flow, Flow::marketCall {}).await?;
    let reward = ask(&asking, market, Market::rewardCall {}).await?;
    let mine = ask(&asking, reward, Reward::mineCall {}).await?;
    ChainClient::connect(&ChainOptions { urls: vec![url.to_owned()], chain_id, flow, mine, rpc }).await
}

async fn ask<C: SolCall>(rpc: &Rpc, to: Address, call: C) -> Result<C::Return, ChainError> {
    let request = TransactionRequest::default().to(to).input(call.abi_encode().into());
    let reply: Bytes = rpc.call("eth_call", C::SIGNATURE, (request, "latest")).await?;
    C::abi_decode_returns(&reply).map_err(|error| {
        let reason = format!("{} bytes from {to}: {error}; is it the address of the flow contract?", reply.len());
        rpc.bad_reply(C::SIGNATURE, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_flow_contract_of_a_known_network_is_refused() {
        let known = Identity { chain_id: 16661, flow: NETWORKS[0].flows[0] };
        assert!(known.check_known("a").is_ok());
        let strange = Identity { chain_id: 16661, flow: NETWORKS[1].flows[0] };
        let error = strange.check_known("http://a").unwrap_err().to_string();
        assert!(error.contains("http://a") && error.contains("mainnet") && error.contains("--flow"), "{error}");
        let own = Identity { chain_id: 31337, flow: Address::ZERO };
        assert!(own.check_known("a").is_ok());
        assert!("mainnet".parse::<&'static Network>().is_ok_and(|network| network.chain_id == 16661));
        assert!("moon".parse::<&'static Network>().is_err());
    }
}
