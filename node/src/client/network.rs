//! The networks that are known by name, and the way from a flow contract to the chain's other contracts.

use std::{fmt, str::FromStr};

use alloy::primitives::Address;
use futures::future::join_all;

use super::{error::ClientError, node::StorageNode, upload::identity_of};
use crate::{
    chain::{
        client::{ChainClient, ChainOptions, find_mine},
        error::ChainError,
        rpc::{Rpc, RpcOptions},
    },
    config::{Config, Sources},
};

/// Networks that the configuration knows, and their indexers of storage nodes, as far as they have any.
const NETWORKS: [(&str, Option<&str>); 4] = [
    ("mainnet", Some("https://indexer-storage-turbo.0g.ai")),
    ("mainnet-standard", None),
    ("testnet", Some("https://indexer-storage-testnet-turbo.0g.ai")),
    ("testnet-standard", None),
];

/// What a client needs to know about a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// Id of its chain.
    pub chain_id: u64,
    /// Its endpoints, the first preferred.
    pub endpoints: Vec<String>,
    /// Its indexer of storage nodes.
    pub indexer: Option<&'static str>,
    /// Its flow contract.
    pub flow: Address,
}

/// No network has this name.
#[derive(Debug, thiserror::Error)]
#[error("no network is called {0:?}; there are mainnet, mainnet-standard, testnet and testnet-standard")]
pub struct UnknownNetwork(String);

impl Network {
    /// All networks that are known by name.
    pub fn all() -> impl Iterator<Item = Network> {
        NETWORKS.into_iter().filter_map(|(name, indexer)| {
            let flag = ("--network".to_owned(), "network".to_owned(), name.to_owned());
            let config = Config::load(&Sources { flags: vec![flag], ..Sources::default() }).ok()?;
            let (chain_id, flow) = (config.chain.chain_id?, config.chain.flow);
            Some(Network { name, chain_id, endpoints: config.chain.endpoints.0, indexer, flow })
        })
    }
}

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        Network::all().find(|network| network.name == name).ok_or_else(|| UnknownNetwork(name.into()))
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
        let mut known = Network::all().filter(|network| network.chain_id == self.chain_id).peekable();
        match known.peek().map(|network| network.name) {
            Some(network) if !known.any(|known| known.flow == self.flow) => {
                Err(ClientError::StrangeFlow { node: node.to_owned(), flow: self.flow, network })
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

/// Connects to the chain of a flow contract through any of `urls`; the flow contract leads to the others.
pub async fn connect(
    urls: &[String],
    rpc: RpcOptions,
    chain_id: Option<u64>,
    flow: Address,
) -> Result<ChainClient, ChainError> {
    let mine = find_mine(&Rpc::over(urls, rpc.clone())?, flow).await?;
    ChainClient::connect(&ChainOptions { urls: urls.to_vec(), chain_id, flow, mine, rpc }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_of_the_configuration() {
        let all: Vec<Network> = Network::all().collect();
        assert_eq!(all.len(), NETWORKS.len(), "the configuration knows all of them: {all:?}");
        let mainnet: Network = "mainnet".parse().unwrap();
        assert_eq!((mainnet.chain_id, mainnet.endpoints), (16661, vec!["https://evmrpc.0g.ai".to_owned()]));
        assert!("moon".parse::<Network>().is_err());
    }

    #[test]
    fn a_strange_flow_contract_of_a_known_network_is_refused() {
        for network in Network::all() {
            let known = Identity { chain_id: network.chain_id, flow: network.flow };
            assert!(known.check_known("a").is_ok(), "{known}");
            let strange = Identity { flow: Address::ZERO, ..known };
            let error = strange.check_known("http://a").unwrap_err().to_string();
            assert!(error.contains("http://a") && error.contains("--flow"), "{error}");
        }
        let own = Identity { chain_id: 31337, flow: Address::ZERO };
        assert!(own.check_known("a").is_ok());
    }
}
