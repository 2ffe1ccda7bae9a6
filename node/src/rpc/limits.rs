//! Bounds on what clients can make the node do at once: threads that work for them, and bytes of requests in memory.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

/// A number of blocking calls that may run at once; the others wait a while.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    count: usize,
    patience: Duration,
}

impl Gate {
    pub(crate) fn new(count: usize, patience: Duration) -> Self {
        Gate { places: Arc::new(Semaphore::new(count)), count, patience }
    }

    /// A place, or the number of places when none came free in time.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, usize> {
        match tokio::time::timeout(self.patience, self.places.clone().acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(self.count),
        }
    }
}

/// Room for the body of a request. It travels with the request, so that work that outlives its client still counts.
#[derive(Clone, Debug)]
pub(crate) struct Room(#[allow(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// Lets requests in only as far as their bodies fit a budget of memory, and ends those that take too long.
/// A request that does not say how long it is counts as the longest.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget {
    /// A permit is a KiB.
    kib: Arc<Semaphore>,
    /// Longest body, in KiB.
    max_kib: u32,
    /// Longest time for a request, from its head to its answer.
    timeout: Duration,
}

impl BodyBudget {
    /// `total` bytes for all requests, of which each may take `max`.
    pub(crate) fn new(total: usize, max: u32, timeout: Duration) -> Self {
        let max_kib = max.div_ceil(1024);
        BodyBudget { kib: Arc::new(Semaphore::new((total / 1024).max(max_kib as usize))), max_kib, timeout }
    }

    /// Room for a request of at most `bytes`, as soon as there is some; it is given back with what is returned.
    pub(crate) async fn room_for(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kib = bytes.div_ceil(1024).min(self.max_kib as usize) as u32;
        self.kib.clone().acquire_many_owned(kib).await.expect("the semaphore is never closed")
    }

    /// KiB that a request may bring.
    fn needs<B>(&self, request: &HttpRequest<B>) -> u32 {
        let length =
            request.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.map_or(self.max_kib, |length| length.div_ceil(1024).min(self.max_kib.into()) as u32)
    }
}

impl<S> Layer<S> for BodyBudget {
    type Service = Budgeted<S>;

    fn layer(&self, inner: S) -> Budgeted<S> {
        Budgeted { inner, budget: self.clone() }
    }
}

/// A service behind a [`BodyBudget`].
#[derive(Clone, Debug)]
pub(crate) struct Budgeted<S> {
    inner: S,
    budget: BodyBudget,
}

impl<S, B> Service<HttpRequest<B>> for Budgeted<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        let needs = self.budget.needs(&request);
        let budget = self.budget.clone();
        // The service that was polled is the one to be called.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            let answer = async {
                let room = budget.kib.clone().acquire_many_owned(needs).await.expect("the semaphore is never closed");
                let room = Room(Arc::new(room));
                request.extensions_mut().insert(room.clone());
                let _room = room;
                inner.call(request).await.map_err(Into::into)
            };
            match tokio::time::timeout(budget.timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(timed_out()),
            }
        })
    }
}

fn timed_out() -> HttpResponse {
    let mut response = HttpResponse::new(HttpBody::from("the request took too long"));
    *response.status_mut() = 408u16.try_into().expect("408 is a status");
    response
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use tokio::sync::oneshot;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The client is told that it took too long, and what goes on for it keeps its room until it is over.
    #[tokio::test]
    async fn work_that_outlives_its_client_keeps_its_room() {
        let budget = BodyBudget::new(64 << 10, 64 << 10, Duration::from_millis(50));
        let (finish, finished) = mpsc::channel::<()>();
        let finished = Arc::new(Mutex::new(finished));
        let (done, is_done) = oneshot::channel();
        let done = Arc::new(Mutex::new(Some(done)));
        let service = budget.layer(service_fn(move |request: HttpRequest<()>| {
            let room = request.extensions().get::<Room>().cloned();
            let (finished, done) = (finished.clone(), done.clone());
            async move {
                let work = tokio::task::spawn_blocking(move || {
                    finished.lock().unwrap().recv().unwrap();
                    assert!(room.is_some(), "the room came with the request");
                    drop(room);
                    done.lock().unwrap().take().unwrap().send(()).unwrap();
                });
                work.await.unwrap();
                Ok::<_, BoxError>(HttpResponse::new(HttpBody::empty()))
            }
        }));
        let mut request = HttpRequest::new(());
        request.headers_mut().insert("content-length", "40000".parse().unwrap());
        assert_eq!(service.oneshot(request).await.unwrap().status().as_u16(), 408);
        assert_eq!(budget.kib.available_permits(), 64 - 40);
        finish.send(()).unwrap();
        is_done.await.unwrap();
        assert_eq!(budget.kib.available_permits(), 64);
    }
}
