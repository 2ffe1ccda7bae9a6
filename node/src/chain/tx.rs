//! Transactions: simulated before they are sent, several in flight under one counter of nonces, watched until they are
//! mined, sent again when they got lost, replaced when their fee is too low.
//!
//! A transaction is never doubled: whatever is sent a second time is the same signed bytes, or a replacement with the
//! same nonce, unless another transaction of the account is known to have used the nonce up.

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope, TxLegacy},
    eips::eip2718::Encodable2718,
    network::TxSignerSync,
    primitives::{Address, B256, Bytes, TxKind, U64, U128, U256},
    rpc::types::{Log, TransactionReceipt, TransactionRequest},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::sleep,
};

use super::{
    error::ChainError,
    keys::Key,
    revert::{Revert, clip},
    rpc::Rpc,
};

/// Which kind of transaction is sent, by the way its fee is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeeKind {
    /// EIP-1559 where blocks have a base fee, legacy elsewhere.
    #[default]
    Auto,
    /// Legacy (type 0) with a gas price.
    Legacy,
    /// EIP-1559 (type 2) with a tip and a limit.
    Eip1559,
}

/// How transactions are sent.
#[derive(Clone, Debug)]
pub struct TxPolicy {
    /// Kind of transaction.
    pub fee_kind: FeeKind,
    /// Most wei per gas that is ever offered.
    pub max_fee_per_gas: u128,
    /// Gas limit in percent of the estimate; at least 100.
    pub gas_percent: u64,
    /// Most gas a transaction may need.
    pub max_gas: u64,
    /// Transactions in flight at once; further ones wait.
    pub max_in_flight: usize,
    /// Blocks to wait before a transaction that is not mined is replaced by one with a higher fee.
    pub bump_after_blocks: u64,
    /// Percent that a replacement pays more; networks want at least 10.
    pub bump_percent: u64,
    /// Wait between the two attempts to hand a transaction over.
    pub resend_after: Duration,
    /// How often the chain is looked at while something is in flight.
    pub poll: Duration,
    /// How long a transaction is waited for.
    pub deadline: Duration,
    /// How long a receipt may be missing after the nonce was used, before the transaction counts as pushed out.
    pub receipt_grace: Duration,
}

impl Default for TxPolicy {
    fn default() -> Self {
        TxPolicy {
            fee_kind: FeeKind::Auto,
            max_fee_per_gas: 500_000_000_000,
            gas_percent: 130,
            max_gas: 20_000_000,
            max_in_flight: 16,
            bump_after_blocks: 5,
            bump_percent: 15,
            resend_after: Duration::from_millis(300),
            poll: Duration::from_millis(200),
            deadline: Duration::from_secs(180),
            receipt_grace: Duration::from_secs(5),
        }
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct TxCall {
    /// Name for logs and errors.
    pub what: &'static str,
    /// The contract.
    pub to: Address,
    /// Selector and arguments.
    pub data: Bytes,
    /// Wei that go along, exactly.
    pub value: U256,
}

/// A transaction that is in a block.
#[derive(Clone, Debug)]
pub struct MinedTx {
    /// Its hash.
    pub hash: B256,
    /// Its block.
    pub block: u64,
    /// Gas it used.
    pub gas_used: u64,
    /// Wei per gas that it paid.
    pub effective_gas_price: u128,
    /// Events of it.
    pub logs: Vec<Log>,
}

impl MinedTx {
    /// Wei that it cost.
    pub fn cost(&self) -> U256 {
        U256::from(self.gas_used) * U256::from(self.effective_gas_price)
    }
}

/// What became of a transaction.
#[derive(Clone, Debug)]
pub enum TxOutcome {
    /// It is in a block and did what it should.
    Mined(MinedTx),
    /// It is in a block and the contract refused it there.
    Reverted {
        /// The transaction.
        tx: MinedTx,
        /// The contract's reason, asked for afterwards.
        reason: Revert,
    },
    /// The simulation refused it; nothing was sent.
    Refused {
        /// The contract's reason.
        reason: Revert,
    },
    /// It is not known to be in a block.
    Failed(TxError),
}

/// Why a transaction is not known to be in a block.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TxError {
    /// The chain could not be asked; nothing was sent.
    #[error("{what} was not sent: {error}")]
    Chain {
        /// The transaction's name.
        what: &'static str,
        /// What failed.
        error: Box<ChainError>,
    },
    /// Both attempts to hand it over broke off, and the chain does not say whether it has it.
    #[error("{what} may have been sent as {hash}, the chain did not confirm it: {error}")]
    Unsure {
        /// The transaction's name.
        what: &'static str,
        /// Its hash.
        hash: B256,
        /// The second failure.
        error: Box<ChainError>,
    },
    /// It needs too much gas.
    #[error("{what} needs {estimate} gas, the configured limit is {limit}")]
    Gas {
        /// The transaction's name.
        what: &'static str,
        /// Gas it needs.
        estimate: u64,
        /// Configured limit.
        limit: u64,
    },
    /// Gas costs too much now.
    #[error("{what} was not sent: gas costs {needed} wei now, the configured limit is {limit}")]
    Fee {
        /// The transaction's name.
        what: &'static str,
        /// Wei per gas that the chain asks for.
        needed: u128,
        /// Configured limit.
        limit: u128,
    },
    /// The account cannot pay for it.
    #[error("{what} was not sent: account {address} has too little money: {message}")]
    Funds {
        /// The transaction's name.
        what: &'static str,
        /// The account.
        address: Address,
        /// What the chain says.
        message: String,
    },
    /// The endpoint does not take it.
    #[error("{what} was not taken: {message}")]
    Rejected {
        /// The transaction's name.
        what: &'static str,
        /// What the chain says.
        message: String,
    },
    /// It was sent and is in no block.
    #[error("{what} was sent as {hash} and not mined within {waited:?}")]
    NotMined {
        /// The transaction's name.
        what: &'static str,
        /// Hash of its last form.
        hash: B256,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Other transactions of the account keep taking its nonce.
    #[error(
        "{what} was pushed out {times} times by other transactions of account {address}; does another program use its key?"
    )]
    PushedOut {
        /// The transaction's name.
        what: &'static str,
        /// The account.
        address: Address,
        /// How often.
        times: u32,
    },
    /// The key did not sign.
    #[error("{what} could not be signed")]
    Sign {
        /// The transaction's name.
        what: &'static str,
    },
}

impl TxError {
    /// `what` was not sent, since the chain could not be asked.
    pub(crate) fn chain(what: &'static str, error: ChainError) -> Self {
        TxError::Chain { what, error: Box::new(error) }
    }

    /// Whether sending the same once more makes sense: nothing was sent, and the cause may pass.
    pub fn is_transient(&self) -> bool {
        matches!(self, TxError::Chain { error, .. } if error.is_transient())
    }
}

/// Sends the transactions of one account. Cheap to clone; all clones share the counter of nonces.
#[derive(Clone)]
pub struct TxManager {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    chain_id: u64,
    key: Key,
    policy: TxPolicy,
    nonces: Mutex<Nonces>,
    head: Mutex<Option<(Instant, Head)>>,
    permits: Semaphore,
}

impl fmt::Debug for TxManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxManager")
            .field("rpc", &self.inner.rpc)
            .field("key", &self.inner.key)
            .field("policy", &self.inner.policy)
            .finish_non_exhaustive()
    }
}

/// Where the chain stands, as far as this account is concerned.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Number of the last block.
    block: u64,
    /// Nonces that blocks have used up: every nonce below it.
    used: u64,
}

/// What is offered per gas, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fee {
    Legacy { price: u128 },
    Eip1559 { max: u128, tip: u128 },
}

impl Fee {
    /// The fee of a replacement: `percent` more, at least what the network asks for `now`; `None` above `limit`.
    fn raised(self, percent: u64, now: Fee, limit: u128) -> Option<Fee> {
        let more = |wei: u128| wei.saturating_add(wei.saturating_mul(u128::from(percent)) / 100).saturating_add(1);
        let raised = match (self, now) {
            (Fee::Legacy { price }, Fee::Legacy { price: now }) => Fee::Legacy { price: more(price).max(now) },
            (Fee::Eip1559 { max, tip }, Fee::Eip1559 { max: now_max, tip: now_tip }) => {
                Fee::Eip1559 { max: more(max).max(now_max), tip: more(tip).max(now_tip) }
            }
            (_, now) => now,
        };
        let highest = match raised {
            Fee::Legacy { price } => price,
            Fee::Eip1559 { max, .. } => max,
        };
        (highest <= limit).then_some(raised)
    }
}

/// Hands out nonces.
#[derive(Debug, Default)]
struct Nonces {
    /// The next one, if known.
    next: Option<u64>,
    /// Those of transactions that are watched.
    in_flight: BTreeSet<u64>,
}

impl Nonces {
    /// The next free nonce at or above what the chain counts.
    fn free(&self, from: u64) -> u64 {
        let mut nonce = from;
        while self.in_flight.contains(&nonce) {
            nonce = nonce.saturating_add(1);
        }
        nonce
    }

    fn take(&mut self, nonce: u64) {
        self.in_flight.insert(nonce);
        self.next = Some(nonce.saturating_add(1));
    }

    /// The transaction left the chain's hands: its nonce may be free again, so the chain is asked before the next one.
    fn give_back(&mut self, nonce: u64) {
        self.in_flight.remove(&nonce);
        self.next = None;
    }
}

/// A transaction that was handed over.
struct Pending {
    nonce: u64,
    gas: u64,
    fee: Fee,
    /// Every form it was sent in, the newest last.
    forms: Vec<Signed>,
    /// Block when the newest form was sent, or when it was last seen to wait behind others.
    sent_at_block: u64,
}

struct Signed {
    hash: B256,
    raw: Bytes,
}

/// What an endpoint does with signed bytes.
enum HandedOver {
    /// It has them.
    Yes,
    /// Another transaction has the nonce.
    NonceTaken,
    /// The fee is below what it takes.
    FeeTooLow(String),
}

/// What became of a transaction that was handed over.
enum Tracked {
    Done(TxOutcome),
    PushedOut,
}

/// Gas of a transaction that carries nothing.
const EMPTY_TX_GAS: u64 = 21_000;

/// Times that a transaction is given a new nonce before it is given up.
const MAX_NONCES: u32 = 8;

impl TxManager {
    /// A manager of the transactions of `key` on the chain with this id, which `rpc` leads to.
    pub fn new(rpc: Rpc, chain_id: u64, key: Key, policy: TxPolicy) -> Self {
        let permits = Semaphore::new(policy.max_in_flight.max(1));
        TxManager {
            inner: Arc::new(Inner {
                rpc,
                chain_id,
                key,
                policy,
                nonces: Mutex::default(),
                head: Mutex::default(),
                permits,
            }),
        }
    }

    /// The account that sends.
    pub fn address(&self) -> Address {
        self.inner.key.address()
    }

    /// Transactions that were handed over and are watched now.
    pub async fn in_flight(&self) -> usize {
        self.inner.nonces.lock().await.in_flight.len()
    }

    /// Asks the chain what `call` would do now. `Ok(Err(..))` is the contract's refusal.
    pub async fn simulate(&self, call: &TxCall) -> Result<Result<(), Revert>, ChainError> {
        self.inner.simulate(call).await
    }

    /// Gas that `call` needs now. `Ok(Err(..))` is the contract's refusal.
    pub async fn estimate(&self, call: &TxCall) -> Result<Result<u64, Revert>, ChainError> {
        match self.inner.estimate(call).await {
            Ok(gas) => Ok(Ok(gas)),
            Err(ChainError::Reverted { revert, .. }) => Ok(Err(revert)),
            Err(error) => Err(error),
        }
    }

    /// Simulates `call`, sends it and waits until it is in a block.
    ///
    /// What was sent is watched to its end even when the future is dropped.
    pub async fn send(&self, call: TxCall) -> TxOutcome {
        let inner = self.inner.clone();
        match tokio::spawn(async move { inner.send(&call).await }).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Inner {
    async fn send(&self, call: &TxCall) -> TxOutcome {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        match self.try_send(call).await {
            Ok(outcome) => outcome,
            Err(error) => TxOutcome::Failed(error),
        }
    }

    async fn try_send(&self, call: &TxCall) -> Result<TxOutcome, TxError> {
        let what = call.what;
        let chain = |error: ChainError| match error.rpc_message() {
            // Some endpoints notice it in the simulation already.
            Some(message) if Refused::of(message) == Refused::Funds => {
                TxError::Funds { what, address: self.key.address(), message: message.to_owned() }
            }
            _ => TxError::chain(what, error),
        };
        for _ in 0..MAX_NONCES {
            if let Err(reason) = self.simulate(call).await.map_err(chain)? {
                return Ok(TxOutcome::Refused { reason });
            }
            let gas = match self.estimate(call).await {
                Err(ChainError::Reverted { revert, .. }) => return Ok(TxOutcome::Refused { reason: revert }),
                estimate => self.gas_limit(what, estimate.map_err(chain)?)?,
            };
            let pending = self.hand_over_new(call, gas).await?;
            let nonce = pending.nonce;
            let tracked = self.track(call, pending).await;
            let mut nonces = self.nonces.lock().await;
            match tracked {
                Ok(Tracked::Done(outcome)) => {
                    nonces.in_flight.remove(&nonce);
                    return Ok(outcome);
                }
                Ok(Tracked::PushedOut) => nonces.give_back(nonce),
                Err(error) => {
                    nonces.give_back(nonce);
                    return Err(error);
                }
            }
        }
        Err(TxError::PushedOut { what, address: self.key.address(), times: MAX_NONCES })
    }

    fn request(&self, call: &TxCall) -> TransactionRequest {
        TransactionRequest::default()
            .from(self.key.address())
            .to(call.to)
            .value(call.value)
            .input(call.data.clone().into())
    }

    async fn simulate(&self, call: &TxCall) -> Result<Result<(), Revert>, ChainError> {
        match self.rpc.call::<_, Bytes>("eth_call", call.what, (self.request(call), "latest")).await {
            Ok(_) => Ok(Ok(())),
            Err(ChainError::Reverted { revert, .. }) => Ok(Err(revert)),
            Err(error) => Err(error),
        }
    }

    async fn estimate(&self, call: &TxCall) -> Result<u64, ChainError> {
        let gas: U64 = self.rpc.call("eth_estimateGas", call.what, (self.request(call),)).await?;
        Ok(gas.to())
    }

    fn gas_limit(&self, what: &'static str, estimate: u64) -> Result<u64, TxError> {
        let limit = self.policy.max_gas;
        if estimate > limit {
            return Err(TxError::Gas { what, estimate, limit });
        }
        let wanted = u128::from(estimate) * u128::from(self.policy.gas_percent.max(100)) / 100;
        Ok(wanted.min(u128::from(limit)) as u64)
    }

    /// What the network suggests per gas now, without regard to the configured limit, and the least that it accepts.
    async fn network_fee(&self) -> Result<(Fee, u128), ChainError> {
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Block {
            base_fee_per_gas: Option<U128>,
        }
        let base = match self.policy.fee_kind {
            FeeKind::Legacy => None,
            FeeKind::Auto | FeeKind::Eip1559 => {
                let block: Block = self.rpc.call("eth_getBlockByNumber", "", ("latest", false)).await?;
                block.base_fee_per_gas.map(|wei| wei.to::<u128>())
            }
        };
        match base {
            Some(base) => {
                let tip = match self.rpc.call::<_, U128>("eth_maxPriorityFeePerGas", "", ()).await {
                    Ok(tip) => tip.to::<u128>(),
                    // Some networks have base fees and not this method; their gas price is base fee plus tip.
                    Err(ChainError::Rpc { .. }) => self.gas_price().await?.saturating_sub(base),
                    Err(error) => return Err(error),
                };
                Ok((Fee::Eip1559 { max: base.saturating_mul(2).saturating_add(tip), tip }, base))
            }
            None => {
                let price = self.gas_price().await?;
                Ok((Fee::Legacy { price }, price))
            }
        }
    }

    async fn gas_price(&self) -> Result<u128, ChainError> {
        Ok(self.rpc.call::<_, U128>("eth_gasPrice", "", ()).await?.to())
    }

    /// The fee to offer first: what the network asks for, within the configured limit.
    async fn fee(&self, what: &'static str) -> Result<Fee, TxError> {
        let (fee, needed) = self.network_fee().await.map_err(|error| TxError::chain(what, error))?;
        let limit = self.policy.max_fee_per_gas;
        if needed > limit {
            return Err(TxError::Fee { what, needed, limit });
        }
        Ok(match fee {
            // One generous transaction in a recent block is enough to make the suggested tip very large.
            Fee::Eip1559 { max, tip } => Fee::Eip1559 { max: max.min(limit), tip: tip.min(limit - needed) },
            legacy => legacy,
        })
    }

    fn sign(&self, call: &TxCall, nonce: u64, gas: u64, fee: Fee) -> Result<Signed, TxError> {
        let (chain_id, to, value, input) = (self.chain_id, TxKind::Call(call.to), call.value, call.data.clone());
        let unsigned = TxError::Sign { what: call.what };
        let envelope: TxEnvelope = match fee {
            Fee::Legacy { price } => {
                let mut tx =
                    TxLegacy { chain_id: Some(chain_id), nonce, gas_price: price, gas_limit: gas, to, value, input };
                let signature = self.key.signer().sign_transaction_sync(&mut tx).map_err(|_| unsigned)?;
                tx.into_signed(signature).into()
            }
            Fee::Eip1559 { max, tip } => {
                let mut tx = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit: gas,
                    max_fee_per_gas: max,
                    max_priority_fee_per_gas: tip,
                    to,
                    value,
                    input,
                    ..TxEip1559::default()
                };
                let signature = self.key.signer().sign_transaction_sync(&mut tx).map_err(|_| unsigned)?;
                tx.into_signed(signature).into()
            }
        };
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() })
    }

    /// Signs `call` with the next nonce and hands it over. One at a time, so that nonces reach the chain in order.
    async fn hand_over_new(&self, call: &TxCall, gas: u64) -> Result<Pending, TxError> {
        let what = call.what;
        let chain = |error| TxError::chain(what, error);
        let mut fee = self.fee(what).await?;
        let sent_at_block = self.head().await.map_err(chain)?.block;
        let mut nonces = self.nonces.lock().await;
        let mut refused = String::new();
        for _ in 0..MAX_NONCES {
            let from = match nonces.next {
                Some(next) => next,
                None => self.count("pending").await.map_err(chain)?,
            };
            let nonce = nonces.free(from);
            let signed = self.sign(call, nonce, gas, fee)?;
            match self.hand_over(what, &signed).await {
                Ok(HandedOver::Yes) => {
                    tracing::debug!(what, nonce, hash = %signed.hash, "sent");
                    nonces.take(nonce);
                    return Ok(Pending { nonce, gas, fee, forms: vec![signed], sent_at_block });
                }
                Ok(HandedOver::NonceTaken) => {
                    let counted = self.count("pending").await.map_err(chain)?;
                    tracing::warn!(what, nonce, counted, "the nonce was used elsewhere, taking the next one");
                    nonces.next = Some(counted.max(nonce.saturating_add(1)));
                }
                Ok(HandedOver::FeeTooLow(message)) => {
                    // The base fee rose between the question and the transaction.
                    refused = message;
                    sleep(self.policy.resend_after).await;
                    fee = self.fee(what).await?;
                }
                Err(error) => {
                    nonces.next = None;
                    return Err(error);
                }
            }
        }
        if refused.is_empty() {
            return Err(TxError::PushedOut { what, address: self.key.address(), times: MAX_NONCES });
        }
        Err(TxError::Rejected { what, message: refused })
    }

    /// Hands signed bytes over; a second time after a failure that may pass, by another endpoint if there is one. The
    /// bytes are the same, so the chain can take them only once.
    async fn hand_over(&self, what: &'static str, signed: &Signed) -> Result<HandedOver, TxError> {
        let mut tried = Vec::new();
        loop {
            let is_second = !tried.is_empty();
            let params = (signed.raw.clone(),);
            let sent: Result<B256, _> = self.rpc.call_once(&mut tried, "eth_sendRawTransaction", what, params).await;
            let error = match sent {
                Ok(_) => return Ok(HandedOver::Yes),
                Err(error) => error,
            };
            // Whatever the error says, a chain that knows the hash has the bytes: from the first attempt, for example.
            let known = self.is_known(signed.hash).await;
            if matches!(known, Ok(true)) {
                return Ok(HandedOver::Yes);
            }
            if error.is_transient() && !is_second {
                tracing::warn!(what, %error, "sending failed, trying once more");
                sleep(self.policy.resend_after).await;
                continue;
            }
            return match error.rpc_message().map(Refused::of) {
                // Exactly these bytes: they got there by another endpoint.
                Some(Refused::Known) => Ok(HandedOver::Yes),
                Some(Refused::Nonce) => Ok(HandedOver::NonceTaken),
                Some(Refused::Fee) => {
                    Ok(HandedOver::FeeTooLow(error.rpc_message().map(|text| clip(text, 200)).unwrap_or_default()))
                }
                Some(Refused::Funds) => {
                    let message = error.rpc_message().unwrap_or_default().to_owned();
                    Err(TxError::Funds { what, address: self.key.address(), message })
                }
                Some(Refused::Other) if !error.is_transient() => {
                    Err(TxError::Rejected { what, message: error.to_string() })
                }
                _ if known.is_ok() && !matches!(error, ChainError::Timeout { .. }) => Err(TxError::chain(what, error)),
                _ => Err(TxError::Unsure { what, hash: signed.hash, error: Box::new(error) }),
            };
        }
    }

    /// Watches a transaction until it is in a block; hands it over again when the chain lost it, and replaces it by one
    /// with a higher fee when it is not mined.
    async fn track(&self, call: &TxCall, mut pending: Pending) -> Result<Tracked, TxError> {
        let what = call.what;
        let started = Instant::now();
        let patience = self.policy.bump_after_blocks.max(1);
        let mut known_at_block = pending.sent_at_block;
        let mut behind_since_block = pending.sent_at_block;
        let mut used_since: Option<Instant> = None;
        loop {
            match self.head().await {
                Ok(head) if head.used > pending.nonce => {
                    match self.outcome(call, &pending).await {
                        Ok(Some(outcome)) => return Ok(Tracked::Done(outcome)),
                        Ok(None) => {
                            // Endpoints behind a load balancer may lag: the receipt gets some time to appear.
                            let since = *used_since.get_or_insert_with(Instant::now);
                            if since.elapsed() > self.policy.receipt_grace {
                                tracing::warn!(what, nonce = pending.nonce, "another transaction used the nonce");
                                return Ok(Tracked::PushedOut);
                            }
                        }
                        Err(error) => tracing::warn!(what, %error, "the receipt cannot be read yet"),
                    }
                }
                Ok(head)
                    if head.used == pending.nonce && head.block >= pending.sent_at_block.saturating_add(patience) =>
                {
                    self.replace(call, &mut pending, head.block).await;
                    known_at_block = head.block;
                }
                Ok(head) if head.block > known_at_block => {
                    known_at_block = head.block;
                    self.keep_known(call, &pending).await;
                    if head.used < pending.nonce {
                        // Others are first in line; its own wait starts when they are done.
                        pending.sent_at_block = head.block;
                        if head.block >= behind_since_block.saturating_add(patience) {
                            behind_since_block = head.block;
                            self.fill_gap(head.used).await;
                        }
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(what, %error, "the chain does not answer, still waiting"),
            }
            if started.elapsed() > self.policy.deadline {
                let hash = pending.forms.last().map_or(B256::ZERO, |form| form.hash);
                return Err(TxError::NotMined { what, hash, waited: self.policy.deadline });
            }
            sleep(self.policy.poll).await;
        }
    }

    /// Hands the newest form over again if the chain does not know it any more.
    async fn keep_known(&self, call: &TxCall, pending: &Pending) {
        let Some(form) = pending.forms.last() else { return };
        if let Ok(false) = self.is_known(form.hash).await {
            tracing::warn!(what = call.what, nonce = pending.nonce, hash = %form.hash, "the chain lost a transaction, sending it again");
            if let Err(error) = self.hand_over(call.what, form).await {
                tracing::warn!(what = call.what, %error, "sending it again failed");
            }
        }
    }

    /// Uses up a nonce that no transaction has, so that those behind it can be mined: after a reorganisation of the
    /// chain, for example. Costs the gas of an empty transaction to the account itself.
    async fn fill_gap(&self, nonce: u64) {
        let what = "a filler";
        // Whoever holds the lock is sending a transaction, perhaps the missing one.
        let Ok(nonces) = self.nonces.try_lock() else { return };
        if nonces.in_flight.contains(&nonce) || !matches!(self.count("pending").await, Ok(next) if next == nonce) {
            return;
        }
        tracing::warn!(nonce, "no transaction has the nonce that the chain waits for, filling the gap");
        let call = TxCall { what, to: self.key.address(), data: Bytes::new(), value: U256::ZERO };
        let filled = match self.fee(what).await.and_then(|fee| self.sign(&call, nonce, EMPTY_TX_GAS, fee)) {
            Ok(signed) => self.hand_over(what, &signed).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = filled {
            tracing::warn!(nonce, %error, "the gap was not filled");
        }
    }

    /// Replaces a transaction by one with a higher fee, as far as the configured limit allows.
    async fn replace(&self, call: &TxCall, pending: &mut Pending, block: u64) {
        let what = call.what;
        let waited = block.saturating_sub(pending.sent_at_block);
        pending.sent_at_block = block;
        let raised = match self.fee(what).await {
            Ok(now) => pending.fee.raised(self.policy.bump_percent, now, self.policy.max_fee_per_gas),
            Err(TxError::Fee { .. }) => None,
            Err(error) => {
                tracing::warn!(what, %error, "the fee cannot be asked for, no replacement yet");
                return;
            }
        };
        let Some(fee) = raised else {
            tracing::warn!(
                what,
                nonce = pending.nonce,
                limit = self.policy.max_fee_per_gas,
                "not mined, and its fee is at the limit"
            );
            return self.keep_known(call, pending).await;
        };
        let Ok(signed) = self.sign(call, pending.nonce, pending.gas, fee) else { return };
        match self.hand_over(what, &signed).await {
            Ok(HandedOver::Yes) => {
                tracing::info!(what, nonce = pending.nonce, waited, ?fee, hash = %signed.hash, "not mined, replaced");
                pending.forms.push(signed);
                pending.fee = fee;
            }
            // Either the nonce has just been used, which the next look shows, or the rise was too small for the network.
            Ok(HandedOver::NonceTaken | HandedOver::FeeTooLow(_)) => pending.fee = fee,
            Err(TxError::Unsure { .. }) => pending.forms.push(signed),
            Err(error) => tracing::warn!(what, %error, "the replacement was not taken"),
        }
    }

    /// What a block says about any of the forms of a transaction.
    async fn outcome(&self, call: &TxCall, pending: &Pending) -> Result<Option<TxOutcome>, ChainError> {
        for form in pending.forms.iter().rev() {
            let receipt: Option<TransactionReceipt> =
                self.rpc.call("eth_getTransactionReceipt", call.what, (form.hash,)).await?;
            let Some(receipt) = receipt else { continue };
            let Some(block) = receipt.block_number else { continue };
            let done = receipt.status();
            let tx = MinedTx {
                hash: form.hash,
                block,
                gas_used: receipt.gas_used,
                effective_gas_price: receipt.effective_gas_price,
                logs: receipt.inner.logs().to_vec(),
            };
            return Ok(Some(if done {
                TxOutcome::Mined(tx)
            } else {
                TxOutcome::Reverted { reason: self.reason(call, &tx, pending.gas).await, tx }
            }));
        }
        Ok(None)
    }

    /// Why a transaction was refused in its block, as far as a simulation on the block before it can say.
    async fn reason(&self, call: &TxCall, tx: &MinedTx, gas: u64) -> Revert {
        if tx.gas_used >= gas {
            return Revert::from_text(&format!("it ran out of gas: {gas} were allowed"));
        }
        for block in [tx.block, tx.block.saturating_sub(1)] {
            let params = (self.request(call), U64::from(block));
            if let Err(ChainError::Reverted { revert, .. }) =
                self.rpc.call::<_, Bytes>("eth_call", call.what, params).await
            {
                return revert;
            }
        }
        Revert::from_text("the contract refused it in its block, and does not refuse it in a simulation")
    }

    /// Whether the chain knows a transaction, in a block or waiting for one. Every endpoint is asked: one that did not take
    /// it itself may not have heard of it yet.
    async fn is_known(&self, hash: B256) -> Result<bool, ChainError> {
        const METHOD: &str = "eth_getTransactionByHash";
        type Found = Option<serde_json::Value>;
        let (found, from) = self.rpc.call_from::<_, Found>(METHOD, "", (hash,)).await?;
        let is_known = |found: &Found| found.as_ref().is_some_and(|found| !found.is_null());
        Ok(is_known(&found) || self.rpc.call_others(from, METHOD, "", (hash,)).await.iter().any(is_known))
    }

    /// Transactions of the account, counted at "latest" or "pending".
    async fn count(&self, at: &'static str) -> Result<u64, ChainError> {
        let count: U64 = self.rpc.call("eth_getTransactionCount", at, (self.key.address(), at)).await?;
        Ok(count.to())
    }

    /// Where the chain stands. Shared by all that wait, so that many in flight ask no more often than one.
    async fn head(&self) -> Result<Head, ChainError> {
        let mut cached = self.head.lock().await;
        if let Some((at, head)) = *cached
            && at.elapsed() < self.policy.poll
        {
            return Ok(head);
        }
        let block: U64 = self.rpc.call("eth_blockNumber", "", ()).await?;
        let head = Head { block: block.to(), used: self.count("latest").await? };
        *cached = Some((Instant::now(), head));
        Ok(head)
    }
}

/// Why an endpoint does not take signed bytes, by the texts of the common clients.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Known,
    Nonce,
    Fee,
    Funds,
    Other,
}

impl Refused {
    fn of(message: &str) -> Self {
        let message = message.to_ascii_lowercase();
        let has = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
        if has(&["already known", "already imported", "alreadyknown"]) {
            Refused::Known
        } else if has(&["nonce too low", "replacement", "invalid nonce"]) {
            Refused::Nonce
        } else if has(&["insufficient funds", "insufficient balance"]) {
            Refused::Funds
        } else if has(&["underpriced", "base fee", "basefee", "fee too low", "gas price too low", "feetoolow"]) {
            Refused::Fee
        } else {
            Refused::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_nonces_pass_over_those_in_flight() {
        let mut nonces = Nonces::default();
        for nonce in [5, 6, 7] {
            assert_eq!(nonces.free(nonces.next.unwrap_or(5)), nonce);
            nonces.take(nonce);
        }
        // The one in the middle got lost: the chain counts up to it, and it is the next to be used.
        nonces.give_back(6);
        assert_eq!(nonces.next, None);
        assert_eq!(nonces.free(6), 6);
        nonces.take(6);
        assert_eq!(nonces.free(nonces.next.unwrap()), 8);
    }

    #[test]
    fn replacements_pay_more_and_never_above_the_limit() {
        let fee = Fee::Eip1559 { max: 100, tip: 10 };
        let now = Fee::Eip1559 { max: 90, tip: 40 };
        assert_eq!(fee.raised(15, now, 1000), Some(Fee::Eip1559 { max: 116, tip: 40 }));
        assert_eq!(fee.raised(15, now, 115), None);
        assert_eq!(
            Fee::Legacy { price: 100 }.raised(10, Fee::Legacy { price: 500 }, 500),
            Some(Fee::Legacy { price: 500 })
        );
        assert_eq!(Fee::Legacy { price: u128::MAX }.raised(10, now, 1000), Some(now));
    }

    #[test]
    fn refusals_of_common_clients_are_told_apart() {
        for (text, expected) in [
            ("nonce too low: next nonce 5, tx nonce 4", Refused::Nonce),
            ("replacement transaction underpriced", Refused::Nonce),
            ("already known", Refused::Known),
            ("transaction already imported", Refused::Known),
            ("Insufficient funds for gas * price + value", Refused::Funds),
            ("max fee per gas less than block base fee", Refused::Fee),
            ("transaction underpriced", Refused::Fee),
            ("exceeds block gas limit", Refused::Other),
        ] {
            assert_eq!(Refused::of(text), expected, "{text}");
        }
    }
}
