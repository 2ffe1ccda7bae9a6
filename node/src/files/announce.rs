//! What this node tells others about files: gathered, and sent no faster than they take it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};
use tracing::{debug, warn};

use super::{Shared, unix_time};
use crate::net::{
    NetError,
    limits::Pace,
    wire::{
        Message, ShardConfig, Topic, TxId,
        gossip::{
            ChunkAnnouncement, ChunkRange, FileAnnouncement, FindFile, MAX_ANNOUNCEMENTS, MAX_FILES_PER_ANNOUNCEMENT,
            SignedAnnouncement, Timed,
        },
        types::ShardedFile,
    },
};

/// Files that wait to be announced. The oldest are dropped first: whoever misses them asks.
const MAX_WAITING_FILES: usize = 10_000;
/// Questions of one kind that wait. Those that do not fit are asked again later.
const MAX_WAITING_QUESTIONS: usize = 256;
/// Announcements of others that wait to be sent again.
const MAX_WAITING_ANNOUNCEMENTS: usize = 256;
/// How long the task sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// What is to be told.
pub(super) enum Outgoing {
    /// To neighbours: we have a new file.
    NewFile(TxId),
    /// To neighbours: who has this file?
    AskFile(TxId),
    /// To everybody: who has this file?
    FindFile(TxId),
    /// To everybody: who has these sectors?
    FindChunks(ChunkRange),
    /// To everybody: we have this file.
    HaveFile(TxId),
    /// To everybody: we have these sectors.
    HaveChunks(ChunkRange),
    /// To everybody: what somebody else announced.
    Again(Arc<SignedAnnouncement>),
    /// To everybody: we keep this shard from now on.
    Shard(ShardConfig),
}

/// The task that tells it.
pub(super) struct Announcer {
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Outgoing>,
    pace: Pace,
    new_files: VecDeque<TxId>,
    /// Questions and short messages, by topic.
    others: [(Topic, VecDeque<Outgoing>); 5],
    own: Gathered<TxId>,
    again: Gathered<Arc<SignedAnnouncement>>,
    has_warned: bool,
}

/// Things that are gathered for a while, so that one message tells several.
struct Gathered<T> {
    items: VecDeque<T>,
    since: Option<Instant>,
}

impl<T: PartialEq> Gathered<T> {
    const fn new() -> Self {
        Gathered { items: VecDeque::new(), since: None }
    }

    fn add(&mut self, item: T, limit: usize) {
        if self.items.contains(&item) {
            return;
        }
        if self.items.len() >= limit {
            self.items.pop_front();
        }
        self.items.push_back(item);
        self.since.get_or_insert_with(Instant::now);
    }

    /// When they are to be sent.
    fn due(&self, capacity: usize, patience: Duration, now: Instant) -> Option<Instant> {
        let since = self.since?;
        Some(if self.items.len() >= capacity { now } else { since + patience })
    }

    fn take(&mut self, count: usize) -> Vec<T> {
        let items: Vec<T> = self.items.drain(..count.min(self.items.len())).collect();
        if self.items.is_empty() {
            self.since = None;
        }
        items
    }
}

impl Announcer {
    pub(super) fn new(shared: Arc<Shared>, inbox: mpsc::Receiver<Outgoing>) -> Self {
        let topics =
            [Topic::AskFile, Topic::FindFile, Topic::FindChunks, Topic::AnnounceChunks, Topic::AnnounceShardConfig];
        Announcer {
            shared,
            inbox,
            pace: Pace::default(),
            new_files: VecDeque::new(),
            others: topics.map(|topic| (topic, VecDeque::new())),
            own: Gathered::new(),
            again: Gathered::new(),
            has_warned: false,
        }
    }

    /// Runs until the network is gone.
    pub(super) async fn run(mut self) {
        loop {
            let Ok(wake) = self.flush().await else { return };
            tokio::select! {
                outgoing = self.inbox.recv() => match outgoing {
                    Some(outgoing) => self.take(outgoing),
                    None => return,
                },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        let topic = match outgoing {
            Outgoing::NewFile(tx_id) => {
                if self.new_files.len() >= MAX_WAITING_FILES {
                    self.new_files.pop_front();
                }
                return self.new_files.push_back(tx_id);
            }
            Outgoing::HaveFile(tx_id) => return self.own.add(tx_id, MAX_WAITING_FILES),
            Outgoing::Again(announcement) => return self.again.add(announcement, MAX_WAITING_ANNOUNCEMENTS),
            Outgoing::AskFile(_) => Topic::AskFile,
            Outgoing::FindFile(_) => Topic::FindFile,
            Outgoing::FindChunks(_) => Topic::FindChunks,
            Outgoing::HaveChunks(_) => Topic::AnnounceChunks,
            Outgoing::Shard(_) => Topic::AnnounceShardConfig,
        };
        let queue = self.others.iter_mut().find(|(kind, _)| *kind == topic);
        if let Some((_, queue)) = queue.filter(|(_, queue)| queue.len() < MAX_WAITING_QUESTIONS) {
            queue.push_back(outgoing);
        }
    }

    /// Sends what may be sent now. Tells when there will be more; fails when the network is gone.
    async fn flush(&mut self) -> Result<Instant, NetError> {
        let mut wake = Instant::now() + IDLE;
        while !self.new_files.is_empty() {
            let now = Instant::now();
            let wait = self.pace.wait(Topic::NewFile, now);
            if !wait.is_zero() {
                wake = wake.min(now + wait);
                break;
            }
            if let Some(tx_id) = self.new_files.pop_front() {
                self.publish(Message::NewFile(self.timed(self.sharded(tx_id)))).await?;
            }
        }
        for index in 0..self.others.len() {
            let topic = self.others[index].0;
            while !self.others[index].1.is_empty() {
                let now = Instant::now();
                let wait = self.pace.wait(topic, now);
                if !wait.is_zero() {
                    wake = wake.min(now + wait);
                    break;
                }
                if let Some(message) = self.others[index].1.pop_front().and_then(|outgoing| self.message(outgoing)) {
                    self.publish(message).await?;
                }
            }
        }
        Ok(wake.min(self.flush_announcements().await?))
    }

    async fn flush_announcements(&mut self) -> Result<Instant, NetError> {
        let config = &self.shared.config.router;
        let (files, announcements) = (config.batcher_file_capacity, config.batcher_announcement_capacity);
        let patience = config.batcher_timeout;
        loop {
            let now = Instant::now();
            let due = [self.own.due(files, patience, now), self.again.due(announcements, patience, now)];
            let Some(due) = due.into_iter().flatten().min() else { return Ok(now + IDLE) };
            if due > now {
                return Ok(due);
            }
            let wait = self.pace.wait(Topic::AnnounceFile, now);
            if !wait.is_zero() {
                return Ok(now + wait);
            }
            let own = self.own.take(MAX_FILES_PER_ANNOUNCEMENT);
            let mut message: Vec<SignedAnnouncement> = self.announcement_of(own).into_iter().collect();
            for announcement in self.again.take(MAX_ANNOUNCEMENTS - message.len()) {
                message.push(SignedAnnouncement { resend_timestamp: timestamp(), ..(*announcement).clone() });
            }
            if !message.is_empty() {
                self.publish(Message::AnnounceFile(message)).await?;
            }
        }
    }

    /// A signed announcement of our files; `None` when there are none, or nobody can reach us.
    fn announcement_of(&mut self, tx_ids: Vec<TxId>) -> Option<SignedAnnouncement> {
        if tx_ids.is_empty() {
            return None;
        }
        let Some(address) = self.shared.address() else {
            if !self.has_warned {
                self.has_warned = true;
                warn!("this node has no public address to announce files with; set router.public_address");
            }
            return None;
        };
        let net = &self.shared.net;
        let inner = FileAnnouncement {
            tx_ids,
            shard: self.shared.shelf.shard(),
            peer_id: net.local_peer().to_bytes(),
            address: address.to_vec(),
        };
        let signed = net.sign(self.timed(inner));
        signed.inspect_err(|error| warn!(%error, "an announcement is not signed")).ok()
    }

    fn message(&self, outgoing: Outgoing) -> Option<Message> {
        Some(match outgoing {
            Outgoing::AskFile(tx_id) => Message::AskFile(self.timed(self.sharded(tx_id))),
            Outgoing::FindFile(tx_id) => Message::FindFile(self.timed(FindFile { tx_id, shard: None })),
            Outgoing::FindChunks(range) => Message::FindChunks(self.timed(range)),
            Outgoing::HaveChunks(range) => {
                let (peer_id, address) = (self.shared.net.local_peer().to_bytes(), self.shared.address()?.to_vec());
                Message::AnnounceChunks(self.timed(ChunkAnnouncement { range, peer_id, address }))
            }
            Outgoing::Shard(shard) => Message::AnnounceShardConfig(self.timed(shard)),
            // These have queues of their own.
            Outgoing::NewFile(_) | Outgoing::HaveFile(_) | Outgoing::Again(_) => return None,
        })
    }

    fn sharded(&self, tx_id: TxId) -> ShardedFile {
        ShardedFile { tx_id, shard: self.shared.shelf.shard() }
    }

    fn timed<T>(&self, inner: T) -> Timed<T> {
        Timed { inner, timestamp: timestamp() }
    }

    async fn publish(&self, message: Message) -> Result<(), NetError> {
        let topic = message.topic();
        match self.shared.net.publish(message).await {
            Err(NetError::Closed) => Err(NetError::Closed),
            // Nobody listens. Questions are asked again; what is told is found out when it is asked for.
            Err(error) => {
                debug!(?topic, %error, "not published");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn timestamp() -> u32 {
    u32::try_from(unix_time()).unwrap_or(u32::MAX)
}
