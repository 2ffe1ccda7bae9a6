//! The desk: takes what the network tells, answers questions, and keeps the books about peers.
//!
//! Events are taken at once, so that the network never waits. What needs the store goes to a clerk through a bounded channel
//! and is dropped when the clerk has too much to do: gossip that nobody answers is asked again.

use std::{sync::Arc, time::Instant};

use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::{Semaphore, broadcast, mpsc},
    time::{MissedTickBehavior, interval},
};
use tracing::debug;
use zgpu_core::units::SECTORS_PER_LOAD;

use super::{
    Shared,
    announce::Outgoing,
    lock,
    sync::{Goal, Origin},
    unix_time,
};
use crate::{
    duties::blocking,
    net::{
        ChunksId, GossipEvent, NetEvent,
        chunks::serve,
        ip_of,
        judge::Verdict,
        wire::{
            Message, Request, Response, ShardConfig, TxId,
            gossip::{ChunkRange, SignedAnnouncement},
            rpc::{ChunkRequest, Goodbye, Refusal},
            types::ShardedFile,
        },
    },
    store::StoreError,
};

/// Messages that wait for the clerk.
const MAX_WAITING_MESSAGES: usize = 256;
/// Requests for sectors that are answered at once.
const MAX_SERVED: usize = 8;
/// Requests for sectors that wait or are answered.
const MAX_REQUESTS: usize = 512;
/// Answers "I have it" that are under way.
const MAX_ANSWERS: usize = 64;
/// How far ahead of our log a file may be that a neighbour tells about.
const MAX_SEQ_AHEAD: u64 = 1000;
/// Segments of a range that are looked up for a stranger.
const MAX_SEGMENTS_FOUND: u64 = 64;

/// Starts the tasks that deal with events.
pub(super) fn start(shared: &Arc<Shared>, events: mpsc::Receiver<NetEvent>) {
    let (messages, to_clerk) = mpsc::channel(MAX_WAITING_MESSAGES);
    let desk = Desk {
        shared: shared.clone(),
        messages,
        served: Arc::new(Semaphore::new(MAX_SERVED)),
        requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
    };
    shared.spawn(desk.run(events));
    let clerk = Clerk { shared: shared.clone(), answers: Arc::new(Semaphore::new(MAX_ANSWERS)) };
    shared.spawn(clerk.run(to_clerk));
    shared.spawn(announce_finalised(shared.clone()));
    shared.spawn(look_after_peers(shared.clone()));
    shared.spawn(look_after_jobs(shared.clone()));
}

struct Desk {
    shared: Arc<Shared>,
    messages: mpsc::Sender<GossipEvent>,
    served: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Desk {
    async fn run(self, mut events: mpsc::Receiver<NetEvent>) {
        while let Some(event) = events.recv().await {
            self.on_event(event).await;
        }
        // Without a network there is nothing left to do.
        self.shared.connected.send_replace(0);
        self.shared.stopping.send_replace(true);
    }

    async fn on_event(&self, event: NetEvent) {
        let shared = &self.shared;
        let now = Instant::now();
        match event {
            // Looked up at each heartbeat.
            NetEvent::Listening(_) => {}
            NetEvent::Connected { peer, shard, is_outgoing } => {
                lock(&shared.roster).connect(peer, shard, is_outgoing, now);
                self.count_peers();
            }
            NetEvent::Disconnected(peer) => {
                lock(&shared.roster).disconnect(&peer);
                self.count_peers();
            }
            NetEvent::Answer { peer, file } => {
                lock(&shared.roster).is_active(&peer, now);
                shared.is_held(peer, &file);
            }
            NetEvent::ChunksWanted { peer, id, request } => {
                lock(&shared.roster).is_active(&peer, now);
                self.serve(peer, id, request).await;
            }
            NetEvent::Gossip(event) => {
                if let Err(refused) = self.messages.try_send(event) {
                    let GossipEvent { from, undecided, .. } = refused.into_inner();
                    if let Some(id) = undecided {
                        // A network that is gone closes the events.
                        let _ = shared.net.verdict(id, from, Verdict::Ignore).await;
                    }
                }
            }
        }
    }

    fn count_peers(&self) {
        let count = lock(&self.shared.roster).len() as u64;
        self.shared.connected.send_replace(count);
        self.shared.notify();
    }

    async fn serve(&self, peer: PeerId, id: ChunksId, request: ChunkRequest) {
        let Ok(place) = self.requests.clone().try_acquire_owned() else {
            let refusal = Response::Refused { refusal: Refusal::RateLimited, text: "too many requests".into() };
            // A network that is gone closes the events.
            let _ = self.shared.net.respond(id, refusal).await;
            return;
        };
        let (shared, served) = (self.shared.clone(), self.served.clone());
        self.shared.spawn(async move {
            let _place = place;
            // Never closed.
            let _turn = served.acquire().await;
            if let Err(error) = serve(&shared.net, shared.shelf.clone(), peer, id, request).await {
                debug!(%error, "chunks are not served");
            }
        });
    }
}

impl Shared {
    /// A neighbour says that it has a file.
    fn is_held(&self, peer: PeerId, file: &ShardedFile) {
        if !file.shard.is_valid() {
            return;
        }
        lock(&self.roster).knows(&peer, file.tx_id.seq);
        if let Some(job) = self.job(file.tx_id.seq).filter(|job| job.tx_id() == file.tx_id) {
            job.add_holder(peer, file.shard, None);
            self.notify();
        }
    }

    /// Somebody announces where it can be reached with a file.
    fn is_held_at(&self, peer: PeerId, tx_id: &TxId, shard: ShardConfig, address: Option<Multiaddr>) {
        if let Some(job) = self.job(tx_id.seq).filter(|job| job.tx_id() == *tx_id) {
            job.add_holder(peer, shard, address);
            self.notify();
        }
    }
}

struct Clerk {
    shared: Arc<Shared>,
    answers: Arc<Semaphore>,
}

impl Clerk {
    async fn run(self, mut messages: mpsc::Receiver<GossipEvent>) {
        while let Some(GossipEvent { from, author, message, undecided }) = messages.recv().await {
            let verdict = match self.on_message(from, author, message).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    debug!(%error, "a message is not dealt with");
                    Verdict::Ignore
                }
            };
            if let Some(id) = undecided
                && self.shared.net.verdict(id, from, verdict).await.is_err()
            {
                return;
            }
        }
    }

    /// Tells whether the message is to be passed on, which matters for those about which that is open.
    async fn on_message(&self, from: PeerId, author: PeerId, message: Message) -> Result<Verdict, StoreError> {
        match message {
            Message::NewFile(file) => self.on_new_file(from, file.inner).await?,
            Message::AskFile(file) => self.on_question(from, file.inner).await?,
            Message::FindFile(find) => return self.on_find_file(find.inner.tx_id, find.inner.shard).await,
            Message::AnnounceFile(announcements) => {
                for announcement in announcements {
                    self.on_announcement(announcement).await;
                }
            }
            Message::AnnounceShardConfig(shard) => lock(&self.shared.roster).set_shard(&author, shard.inner),
            Message::FindChunks(range) => return self.on_find_chunks(range.inner).await,
            Message::AnnounceChunks(chunks) => {
                let inner = chunks.inner;
                let address = Multiaddr::try_from(inner.address).ok();
                if let Ok(peer) = PeerId::from_bytes(&inner.peer_id)
                    && peer != self.shared.net.local_peer()
                {
                    let known = lock(&self.shared.roster).get(&peer).map(|neighbour| neighbour.shard);
                    let shard = known.unwrap_or(ShardConfig::WHOLE);
                    self.shared.is_held_at(peer, &inner.range.tx_id, shard, address);
                }
            }
        }
        Ok(Verdict::Accept)
    }

    async fn has(&self, tx_id: TxId) -> Result<bool, StoreError> {
        let shelf = self.shared.shelf.clone();
        blocking(move || shelf.has(&tx_id)).await
    }

    async fn on_new_file(&self, from: PeerId, file: ShardedFile) -> Result<(), StoreError> {
        self.shared.is_held(from, &file);
        if !self.shared.config.sync.auto_sync_enabled {
            return Ok(());
        }
        let (shelf, tx_id) = (self.shared.shelf.clone(), file.tx_id);
        let is_wanted = blocking(move || {
            let next = shelf.0.next_seq();
            if tx_id.seq >= next {
                return Ok::<bool, StoreError>(tx_id.seq - next < MAX_SEQ_AHEAD);
            }
            Ok(shelf.find(tx_id.seq)?.is_some_and(|place| place.tx_id == tx_id) && !shelf.has(&tx_id)?)
        });
        if is_wanted.await? && !self.shared.is_syncing(tx_id.seq) {
            self.queue(tx_id.seq);
        }
        Ok(())
    }

    fn queue(&self, seq: u64) {
        if lock(&self.shared.queue).add_ready(seq) {
            self.shared.notify();
        }
    }

    /// A neighbour looks for a file: it is told when we have it.
    async fn on_question(&self, from: PeerId, file: ShardedFile) -> Result<(), StoreError> {
        if !self.has(file.tx_id).await? {
            return Ok(());
        }
        let Ok(place) = self.answers.clone().try_acquire_owned() else { return Ok(()) };
        let answer = ShardedFile { tx_id: file.tx_id, shard: self.shared.shelf.shard() };
        let net = self.shared.net.clone();
        self.shared.spawn(async move {
            let _place = place;
            if let Err(error) = net.request(from, Request::AnswerFile(answer)).await {
                debug!(%error, "not answered");
            }
        });
        Ok(())
    }

    /// Somebody looks for a file: we tell what we have or know, or pass the question on.
    async fn on_find_file(&self, tx_id: TxId, shard: Option<ShardConfig>) -> Result<Verdict, StoreError> {
        if self.has(tx_id).await? {
            self.shared.tell(Outgoing::HaveFile(tx_id));
            return Ok(Verdict::Ignore);
        }
        let mut known = lock(&self.shared.locations).of(&tx_id, unix_time());
        known.retain(|it| shard.is_none_or(|shard| it.announcement.inner.shard.overlaps(&shard)));
        if known.is_empty() {
            return Ok(Verdict::Accept);
        }
        known.into_iter().for_each(|announcement| self.shared.tell(Outgoing::Again(announcement)));
        Ok(Verdict::Ignore)
    }

    async fn on_announcement(&self, signed: SignedAnnouncement) {
        let Some(peer) = signed.peer_id().filter(|peer| *peer != self.shared.net.local_peer()) else { return };
        if self.shared.config.router.check_announced_ip && !self.is_seen_at(peer, signed.address()).await {
            return;
        }
        let inner = &signed.announcement.inner;
        lock(&self.shared.roster).set_shard(&peer, inner.shard);
        for tx_id in &inner.tx_ids {
            lock(&self.shared.roster).knows(&peer, tx_id.seq);
            self.shared.is_held_at(peer, tx_id, inner.shard, signed.address());
        }
        if self.shared.config.sync.sync_file_on_announcement_enabled && inner.shard.overlaps(&self.shared.shelf.shard())
        {
            for tx_id in inner.tx_ids.clone() {
                self.start_sync(tx_id).await;
            }
        }
        lock(&self.shared.locations).insert(signed, unix_time());
    }

    async fn start_sync(&self, tx_id: TxId) {
        let shared = self.shared.clone();
        let started = blocking(move || shared.start_sync(tx_id.seq, Goal::File, Origin::Announcement)).await;
        if let Err(error) = started {
            debug!(seq = tx_id.seq, %error, "not fetched");
        }
    }

    /// True when the peer is, or was, connected from the address that it announces.
    async fn is_seen_at(&self, peer: PeerId, address: Option<Multiaddr>) -> bool {
        let Ok(overview) = self.shared.net.overview().await else { return false };
        let Some(record) = overview.peers.into_iter().find(|record| record.peer == peer) else { return false };
        address.as_ref().and_then(ip_of).is_some_and(|ip| record.ips.contains(&ip))
    }

    async fn on_find_chunks(&self, range: ChunkRange) -> Result<Verdict, StoreError> {
        let shelf = self.shared.shelf.clone();
        let has = blocking(move || {
            let Some(place) = shelf.find(range.tx_id.seq)?.filter(|place| place.tx_id == range.tx_id) else {
                return Ok::<Option<bool>, StoreError>(Some(false));
            };
            if range.end > place.sectors {
                return Ok(None);
            }
            let per_load = SECTORS_PER_LOAD as u64;
            let mut segments = range.start / per_load..range.end.div_ceil(per_load);
            if segments.end - segments.start > MAX_SEGMENTS_FOUND {
                return Ok(Some(false));
            }
            let has_all =
                segments.try_fold(true, |all, segment| Ok(all && shelf.0.has_segment(range.tx_id.seq, segment)?));
            has_all.map(Some)
        });
        Ok(match has.await? {
            None => Verdict::Reject,
            Some(false) => Verdict::Accept,
            Some(true) => {
                self.shared.tell(Outgoing::HaveChunks(range));
                Verdict::Ignore
            }
        })
    }
}

/// Tells neighbours about each file that is complete, once the node follows the chain: what it catches up with is old.
async fn announce_finalised(shared: Arc<Shared>) {
    let mut finalised = shared.shelf.0.watch_finalised();
    loop {
        let seq = match finalised.recv().await {
            Ok(seq) => seq,
            // Too many at once to tell them all; neighbours find out when they ask.
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        lock(&shared.queue).remove(seq);
        if !*shared.caught_up.borrow() {
            continue;
        }
        let shelf = shared.shelf.clone();
        match blocking(move || shelf.find(seq)).await {
            Ok(Some(place)) => shared.tell(Outgoing::NewFile(place.tx_id)),
            Ok(None) => {}
            Err(error) => debug!(seq, %error, "not announced"),
        }
    }
}

/// Parts with peers that are idle, and tells everybody when we keep another shard.
async fn look_after_peers(shared: Arc<Shared>) {
    let router = &shared.config.router;
    let mut heartbeat = interval(router.heartbeat_interval.max(std::time::Duration::from_millis(100)));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        heartbeat.tick().await;
        match shared.net.overview().await {
            Ok(overview) => *lock(&shared.listening) = overview.listeners,
            Err(_) => return,
        }
        let (incoming, outgoing) = (router.max_idle_incoming_peers, router.max_idle_outgoing_peers);
        let idle = lock(&shared.roster).idle(router.idle_time, incoming, outgoing, Instant::now());
        for peer in idle {
            if shared.net.disconnect(peer, Goodbye::IrrelevantNetwork).await.is_err() {
                return;
            }
        }
        let shard = shared.shelf.shard();
        if told != Some(shard) {
            if shared.net.set_shard(shard).await.is_err() {
                return;
            }
            if told.is_some() {
                shared.tell(Outgoing::Shard(shard));
            }
            told = Some(shard);
        }
    }
}

async fn look_after_jobs(shared: Arc<Shared>) {
    let mut heartbeat = interval(shared.config.sync.heartbeat_interval.max(std::time::Duration::from_millis(100)));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        heartbeat.tick().await;
        shared.tidy_jobs();
        lock(&shared.locations).tidy(unix_time());
    }
}
