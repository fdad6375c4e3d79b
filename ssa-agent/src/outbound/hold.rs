//! Held SYN: the obligation to resume or to refuse it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ssa_common::{event::Held, limits::ERROR_BYTES, phase::TcpState};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    connection::{Answers, Attempt, Error},
    drain::Drain,
    kernel::{Errno, Syn},
    netns::{EndHold, raw_sockets_of},
};

/// Events of an attempt while its connect is held.
#[derive(Clone)]
pub(crate) struct Progress {
    /// SYN as it was held last.
    pub(crate) syn: Arc<Syn>,
    /// Number of times that it was held, from 1.
    pub(crate) held: u32,
    /// State of the kernel's socket after SYN_SENT; none while it is there.
    pub(crate) left: Option<TcpState>,
    /// Whether the application has closed the socket.
    pub(crate) closed: bool,
}

impl Progress {
    /// Whether nobody waits for an answer any more.
    fn is_over(&self) -> bool {
        self.closed || self.left.is_some()
    }
}

/// End of the work for a held connect.
pub(crate) enum Outcome<T> {
    /// It was done, or has failed.
    Done(Result<T, Error>),
    /// The application has given up.
    GivenUp,
    /// A successor is to answer.
    Left,
}

/// Time that a connect that was resumed may go without the agent's SYN-ACK. It is resumed again meanwhile, when the
/// kernel sends the SYN again after 1 and 3 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Time after its SYN-ACK in which an application leg has to be accepted.
const LEG_LIMIT: Duration = Duration::from_secs(5);
/// Pauses between refusals: the first, doubled each time, and the longest.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connect that waits for an answer. Whoever drops it without one - a task that is aborted, or panics - has refused it
/// with `EHOSTUNREACH`, unless the application has given up or a successor answers.
pub(crate) struct HeldSyn {
    record: Box<Held>,
    progress: watch::Receiver<Progress>,
    answers: Answers,
    drain: Drain,
    /// Token that is cancelled when the service is detached, and when the agent stops.
    stop: CancellationToken,
    /// Raw sockets that end the hold; none before the application's network namespace was entered.
    end: Option<Arc<dyn EndHold>>,
    /// Whether the application still has to be answered by this process.
    owed: bool,
}

impl HeldSyn {
    /// Makes the obligation for a record of the ring buffer. `progress` follows the attempt's later events.
    pub(crate) fn new(record: Box<Held>, progress: watch::Receiver<Progress>, answers: Answers, drain: Drain) -> Self {
        let stop = drain.child_token();
        Self { record, progress, answers, drain, stop, end: None, owed: true }
    }

    /// Record as the hooks have sent it.
    pub(crate) fn record(&self) -> &Held {
        &self.record
    }

    /// Socket, at this connect.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt { id: self.record.id, number: self.record.attempt }
    }

    /// Address that the application connects to.
    pub(crate) fn orig_dst(&self) -> SocketAddr {
        self.record.orig_dst.into()
    }

    /// Notes the service that it belongs to, and the token that is cancelled when that is detached.
    pub(crate) fn belongs_to(&mut self, service: u64, stop: CancellationToken) {
        self.record.caller.service = service;
        self.stop = stop;
    }

    /// Token that is cancelled when the service is detached, and when the agent stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Sets the raw sockets by which it can be answered from here on.
    pub(crate) fn entered(&mut self, end: Arc<dyn EndHold>) {
        self.end = Some(end);
    }

    /// Leaves it to a successor: its SYN comes again.
    pub(crate) fn leave(mut self) {
        self.owed = false;
    }

    /// Completes when nobody waits for an answer any more. Cancellation loses nothing.
    pub(crate) async fn over(&self) {
        let mut progress = self.progress.clone();
        // Nobody tells any more: the process ends.
        let _ended = progress.wait_for(Progress::is_over).await;
    }

    /// Does what the connect waits for, unless nobody waits any more, the service is detached, or a successor is to answer: then
    /// `work` is dropped where it stands. Cancellation drops it too.
    pub(crate) async fn attempt_to<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Outcome<T> {
        tokio::select! {
            biased;
            () = self.over() => Outcome::GivenUp,
            () = self.stop.cancelled() => Outcome::Done(Err(Error::Stopping)),
            () = self.drain.handing_over() => Outcome::Left,
            done = work => Outcome::Done(done),
        }
    }

    /// Completes when the SYN comes again; false if nobody waits for an answer any more. Cancellation loses nothing.
    pub(crate) async fn comes_again(&mut self) -> bool {
        self.progress.changed().await.is_ok() && !self.progress.borrow().is_over()
    }

    /// SYN as it was held last.
    pub(crate) fn syn(&self) -> Arc<Syn> {
        Arc::clone(&self.progress.borrow().syn)
    }

    /// Lets the SYN pass, again whenever it comes again, and waits for the application `leg`, which was announced. None
    /// if the application has given up.
    ///
    /// Errors: [`Error::Leg`] after 5 s, [`Error::Stopping`]; it is still to be refused then.
    pub(crate) async fn resume(
        &mut self,
        mut leg: impl Future<Output = Option<TcpStream>> + Unpin,
    ) -> Result<Option<TcpStream>, Error> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let now = self.progress.borrow_and_update().clone();
            if now.left.is_none()
                && let Some(end) = &self.end
                && let Err(error) = end.resume(&now.syn)
            {
                warn!(%error, "resuming a held connect failed; trying again when its SYN comes again");
            }
            tokio::select! {
                biased;
                arrived = &mut leg => return Ok(self.answered(arrived)),
                () = self.stop.cancelled() => return Err(Error::Stopping),
                () = sleep_until(deadline) => return Err(Error::Leg { limit: ANSWER_LIMIT }),
                // Held again: resume again. Established: the leg is about to arrive.
                changed = self.progress.changed() => if changed.is_err() { return Ok(None) },
            }
            let (left, closed) = (self.progress.borrow().left, self.progress.borrow().closed);
            match left {
                // Even if the application has closed it since: what it sent before is to arrive.
                Some(TcpState::ESTABLISHED) => {
                    let arrived = timeout(LEG_LIMIT, &mut leg).await.ok().flatten();
                    return Ok(self.answered(arrived));
                }
                Some(_) => return Ok(None),
                None if closed => return Ok(None),
                None => {}
            }
        }
    }

    /// Notes that the application has its connection, or has given up.
    fn answered(&mut self, leg: Option<TcpStream>) -> Option<TcpStream> {
        self.owed = false;
        leg
    }

    /// Publishes the error, calls `log` with its text, then refuses until the kernel says that the socket has left
    /// SYN_SENT: it drops an ICMP error that meets a socket locked by another call. A failure to refuse is logged; the
    /// kernel's own limit ends the connect then.
    pub(crate) async fn refuse(mut self, error: &Error, log: impl FnOnce(&str)) {
        let text = error.text(ERROR_BYTES - 1);
        if !self.answers.refused(self.attempt(), &text) {
            return;
        }
        log(&text);
        let end = match &self.end {
            Some(end) => Ok(Arc::clone(end)),
            None => raw_sockets_of(self.record.caller).await.map(|raw| Arc::new(raw) as Arc<dyn EndHold>),
        };
        match end {
            Ok(end) => repeat_refusal(&*end, error.errno(), self.progress.clone(), &self.drain).await,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a held connect can't be refused"),
        }
        // Last: whoever aborts this still refuses.
        self.owed = false;
    }
}

impl Drop for HeldSyn {
    fn drop(&mut self) {
        if !self.owed || self.progress.borrow().is_over() {
            return;
        }
        let (error, progress, drain) = (Error::Stopping, self.progress.clone(), self.drain.clone());
        if !self.answers.refused(self.attempt(), &error.text(ERROR_BYTES - 1)) {
            return;
        }
        let (end, caller) = (self.end.take(), self.record.caller);
        if let Some(end) = &end {
            // At once, in case that the runtime ends.
            let _again = end.refuse(&progress.borrow().syn, error.errno());
        }
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let end = match end {
                Some(end) => end,
                None => match raw_sockets_of(caller).await {
                    Ok(raw) => Arc::new(raw) as Arc<dyn EndHold>,
                    Err(_gone) => return,
                },
            };
            repeat_refusal(&*end, error.errno(), progress, &drain).await;
        });
    }
}

/// Refuses until the socket has left SYN_SENT, or a successor answers.
async fn repeat_refusal(end: &dyn EndHold, errno: Errno, mut progress: watch::Receiver<Progress>, drain: &Drain) {
    let mut pause = PAUSE;
    loop {
        let now = progress.borrow_and_update().clone();
        if now.is_over() {
            return;
        }
        if let Err(error) = end.refuse(&now.syn, errno) {
            debug!(%error, "refusing a held connect failed; trying again");
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = drain.handing_over() => return,
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        io,
        sync::Mutex,
    };

    use ssa_common::connection::State;
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{drain::Lifecycle, kernel::FakeAnswers, sync::lock};

    /// What was sent, and when.
    #[derive(Default)]
    struct FakeEnd(Mutex<Vec<(Option<Errno>, Instant)>>);

    impl FakeEnd {
        fn resumed(&self) -> usize {
            lock(&self.0).iter().filter(|(errno, _at)| errno.is_none()).count()
        }

        fn refused(&self) -> Vec<(Errno, Instant)> {
            lock(&self.0).iter().filter_map(|(errno, at)| errno.map(|errno| (errno, *at))).collect()
        }
    }

    impl EndHold for FakeEnd {
        fn resume(&self, _syn: &Syn) -> io::Result<()> {
            lock(&self.0).push((None, Instant::now()));
            Ok(())
        }

        fn refuse(&self, _syn: &Syn, errno: Errno) -> io::Result<()> {
            lock(&self.0).push((Some(errno), Instant::now()));
            Ok(())
        }
    }

    struct World {
        end: Arc<FakeEnd>,
        map: Arc<FakeAnswers>,
        lifecycle: Arc<Lifecycle>,
        progress: watch::Sender<Progress>,
    }

    fn world() -> (World, HeldSyn) {
        let mut packet = [0_u8; 40];
        (packet[0], packet[2], packet[3], packet[9], packet[33]) = (0x45, 0, 40, 6, 2);
        packet[32] = 5 << 4;
        let syn = Arc::new(Syn::parse(&packet).expect("it is a SYN"));
        let (progress, follow) = watch::channel(Progress { syn, held: 1, left: None, closed: false });
        let (end, map, lifecycle) = (Arc::<FakeEnd>::default(), Arc::<FakeAnswers>::default(), Lifecycle::new());
        lifecycle.serve();
        map.open(7, 1);
        let mut record = Box::new(Held::new_zeroed());
        (record.id, record.attempt) = (7, 1);
        let answers = Answers::new(map.clone());
        let mut held = HeldSyn::new(record, follow, answers, lifecycle.drain());
        held.entered(end.clone());
        (World { end, map, lifecycle, progress }, held)
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_repeated_until_the_socket_has_left_syn_sent() {
        let (world, held) = world();
        let began = Instant::now();
        let refusing = tokio::spawn(async move { held.refuse(&Error::Stopping, |_text| ()).await });
        sleep(Duration::from_millis(20)).await;
        let pauses: Vec<u128> = world.end.refused().iter().map(|(_errno, at)| (*at - began).as_millis()).collect();
        assert_eq!(pauses, [0, 1, 3, 7, 15], "1, 2, 4, 8 ms between them");
        assert!(!refusing.is_finished());
        sleep(Duration::from_secs(10)).await;
        let times = world.end.refused();
        assert!(times.windows(2).all(|two| two[1].1 - two[0].1 <= PAUSE_MAX), "and never more than a second");
        world.progress.send_modify(|progress| progress.left = Some(TcpState::CLOSE));
        refusing.await.unwrap();
        let count = world.end.refused().len();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(world.end.refused().len(), count, "nothing is sent afterwards");
        assert_eq!(world.map.state(7), Some((1, State::REFUSED, "the TLS agent ends".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn syn_that_comes_again_is_refused_again_at_once() {
        let (world, held) = world();
        let _refusing = tokio::spawn(async move { held.refuse(&Error::Stopping, |_text| ()).await });
        sleep(Duration::from_secs(60)).await;
        let before = world.end.refused().len();
        world.progress.send_modify(|progress| progress.held += 1);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.end.refused().len(), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn syn_that_comes_again_is_resumed_again() {
        let (world, mut held) = world();
        let resuming = tokio::spawn(async move { held.resume(Box::pin(pending())).await });
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.end.resumed(), 1);
        world.progress.send_modify(|progress| progress.held += 1);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.end.resumed(), 2);
        // The leg never comes: that is an error, and the connect is still to be refused; here by the drop.
        assert!(matches!(resuming.await.unwrap(), Err(Error::Leg { .. })));
        sleep(Duration::from_millis(1)).await;
        assert!(!world.end.refused().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn leg_that_was_given_up_is_no_error_and_nothing_is_refused() {
        let (world, mut held) = world();
        assert!(held.resume(Box::pin(ready(None))).await.unwrap().is_none());
        drop(held);
        sleep(Duration::from_secs(1)).await;
        assert!(world.end.refused().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_task_refuses() {
        let (world, held) = world();
        let waiting = tokio::spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        sleep(Duration::from_millis(1)).await;
        waiting.abort();
        sleep(Duration::from_millis(50)).await;
        let refused = world.end.refused();
        assert!(
            refused.len() > 2 && refused.iter().all(|(errno, _at)| *errno == Errno::HostUnreachable),
            "{refused:?}"
        );
        assert_eq!(world.map.state(7).unwrap().1, State::REFUSED);
        world.progress.send_modify(|progress| progress.closed = true);
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_is_dropped_while_it_refuses_goes_on_refusing() {
        let (world, held) = world();
        let refusing = tokio::spawn(async move { held.refuse(&Error::Stopping, |_text| ()).await });
        sleep(Duration::from_millis(1)).await;
        refusing.abort();
        assert!(refusing.await.is_err());
        let before = world.end.refused().len();
        sleep(Duration::from_secs(5)).await;
        assert!(world.end.refused().len() > before + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn panicking_task_refuses() {
        let (world, held) = world();
        let panicking = tokio::spawn(async move {
            let _held = held;
            panic!("a fault of the agent's");
        });
        assert!(panicking.await.is_err());
        sleep(Duration::from_millis(50)).await;
        assert!(world.end.refused().len() > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn application_that_has_given_up_is_not_refused() {
        let (world, held) = world();
        world.progress.send_modify(|progress| progress.closed = true);
        held.over().await;
        drop(held);
        sleep(Duration::from_secs(1)).await;
        assert!(world.end.refused().is_empty());
    }

    /// A dial that never ends, and says when it is dropped.
    async fn dial(cancelled: Arc<Mutex<bool>>) -> Result<(), Error> {
        struct Cancelled(Arc<Mutex<bool>>);
        impl Drop for Cancelled {
            fn drop(&mut self) {
                *lock(&self.0) = true;
            }
        }
        let _cancelled = Cancelled(cancelled);
        pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn closed_application_cancels_the_dial() {
        let (world, held) = world();
        let cancelled = Arc::<Mutex<bool>>::default();
        let dialling = held.attempt_to(dial(cancelled.clone()));
        tokio::pin!(dialling);
        assert!(timeout(Duration::from_secs(1), &mut dialling).await.is_err() && !*lock(&cancelled));
        world.progress.send_modify(|progress| progress.closed = true);
        assert!(matches!(dialling.await, Outcome::GivenUp));
        assert!(*lock(&cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn detached_service_and_successor_cancel_the_dial_each_in_its_way() {
        let (world, held) = world();
        let cancelled = Arc::<Mutex<bool>>::default();
        let handover = world.lifecycle.begin_handover().unwrap();
        handover.quiesce(Duration::from_secs(1)).await.unwrap();
        assert!(matches!(held.attempt_to(dial(cancelled.clone())).await, Outcome::Left));
        drop(handover);
        held.stop().cancel();
        assert!(matches!(held.attempt_to(dial(cancelled)).await, Outcome::Done(Err(Error::Stopping))));
        held.leave();
    }

    #[tokio::test(start_paused = true)]
    async fn successor_answers_what_is_left_to_it() {
        let (world, held) = world();
        let handover = world.lifecycle.begin_handover().unwrap();
        handover.quiesce(Duration::from_secs(1)).await.unwrap();
        held.leave();
        sleep(Duration::from_secs(1)).await;
        assert!(world.end.refused().is_empty());
        assert_eq!(world.map.state(7).unwrap().1, State::PENDING);
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_of_an_old_attempt_never_reaches_the_next_one() {
        let (world, held) = world();
        world.map.open(7, 2);
        held.refuse(&Error::Stopping, |_text| panic!("nothing is to be logged")).await;
        assert!(world.end.refused().is_empty());
        assert_eq!(world.map.state(7), Some((2, State::PENDING, String::new())));
    }
}
