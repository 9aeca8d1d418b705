use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;

use super::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Faulty(Verdict);

impl Judged for Faulty {
    fn verdict(&self) -> Verdict {
        self.0
    }
}

const FAILED: Result<u32, Faulty> = Err(Faulty(Verdict::Failed));
const BUSY: Result<u32, Faulty> = Err(Faulty(Verdict::Busy { after: None }));
const DENIED: Result<u32, Faulty> = Err(Faulty(Verdict::Settled));

/// A store that answers its n-th request, from 0, by a rule.
struct Store<F> {
    guard: Guard,
    asked: AtomicU32,
    rule: F,
}

impl<F: Fn(u32) -> Result<u32, Faulty>> Store<F> {
    fn new(rule: F) -> Store<F> {
        let guard = Guard::seeded("test", GuardLimits::default(), 7);
        Store { guard, asked: AtomicU32::new(0), rule }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    async fn ask(&self) -> Result<u32, CallError<Faulty>> {
        let work = |_| async {
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            // A request takes its time.
            sleep(Duration::from_millis(10)).await;
            (self.rule)(number)
        };
        self.guard.call("Ask", Patience::SMALL, work).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_after_a_pause() {
    let store = Store::new(|number| if number < 2 { FAILED } else { Ok(number) });
    assert_eq!(store.ask().await, Ok(2));
    let counts = store.guard.counts();
    assert_eq!((counts.requests["Ask"], counts.retries, counts.opened), (3, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn tries_end() {
    let store = Store::new(|_| FAILED);
    assert_eq!(store.ask().await, Err(CallError::Answered(Faulty(Verdict::Failed))));
    assert_eq!(store.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn whoever_was_told_what_is_wrong_says_so_when_the_store_is_left_alone() {
    let store = Store::new(|_| FAILED);
    let ended = join_all((0..8).map(|_| store.ask())).await;
    assert_eq!(store.guard.counts().opened, 1);
    for ended in ended {
        assert_eq!(ended, Err(CallError::Answered(Faulty(Verdict::Failed))));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_tried_again_and_opens_nothing() {
    let store = Store::new(|_| DENIED);
    for _ in 0..50 {
        assert_eq!(store.ask().await, Err(CallError::Answered(Faulty(Verdict::Settled))));
    }
    let counts = store.guard.counts();
    assert_eq!((store.asked(), counts.retries, counts.opened), (50, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_store_asks_for_is_made_or_it_is_given_up_on() {
    let patient = |after| {
        move |number| match number {
            0 => Err(Faulty(Verdict::Busy { after: Some(after) })),
            _ => Ok(number),
        }
    };
    let store = Store::new(patient(Duration::from_secs(3)));
    let began = Instant::now();
    assert_eq!(store.ask().await, Ok(1));
    assert!(began.elapsed() >= Duration::from_secs(3));
    let store = Store::new(patient(Duration::from_mins(1)));
    let began = Instant::now();
    assert!(store.ask().await.is_err());
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline() {
    let guard = Guard::seeded("test", GuardLimits::default(), 7);
    let began = Instant::now();
    let silent =
        guard.call("Ask", Patience::SMALL, |_| std::future::pending::<Result<u32, Faulty>>());
    let limit = Duration::from_secs(2);
    assert_eq!(silent.await, Err(CallError::Late { limit }));
    assert_eq!(began.elapsed(), limit);
    let counts = guard.counts();
    assert_eq!((counts.late, counts.requests["Ask"], counts.opened), (1, 1, 1));
}

fn guard() -> Guard {
    Guard::seeded("test", GuardLimits::default(), 7)
}

async fn silent(guard: &Guard, patience: Patience) -> Result<u32, CallError<Faulty>> {
    guard.call("Ask", patience, |_| std::future::pending()).await
}

/// Answers after this time.
async fn answered(guard: &Guard, after: Duration) -> Result<u32, CallError<Faulty>> {
    let work = |_| async move {
        sleep(after).await;
        Ok(1)
    };
    guard.call("Ask", Patience::READ, work).await
}

#[tokio::test(start_paused = true)]
async fn c04_a_store_that_fell_silent_costs_a_second_and_some_of_its_usual_times() {
    let guard = guard();
    for _ in 0..20 {
        answered(&guard, Duration::from_millis(50)).await.unwrap();
    }
    let began = Instant::now();
    assert!(silent(&guard, Patience::READ).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(1_400));
    // From then on nobody waits.
    for _ in 0..50 {
        assert!(matches!(silent(&guard, Patience::READ).await, Err(CallError::Resting { .. })));
    }
    assert_eq!(began.elapsed(), Duration::from_millis(1_400));
    let counts = guard.counts();
    assert_eq!((counts.opened, counts.spared), (1, 50));
}

#[tokio::test(start_paused = true)]
async fn one_lost_connection_is_no_silent_store() {
    let guard = guard();
    let asked = AtomicU32::new(0);
    let work = |_| async {
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => std::future::pending::<Result<u32, Faulty>>().await,
            number => Ok(number),
        }
    };
    let began = Instant::now();
    assert_eq!(guard.call("Ask", Patience::READ, work).await, Ok(1));
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let counts = guard.counts();
    assert_eq!((counts.opened, counts.late, counts.retries, counts.requests["Ask"]), (0, 0, 1, 2));
    // Who waits long as a rule is not asked twice.
    asked.store(0, Ordering::SeqCst);
    let late = guard.call("Ask", Patience { hedge: Hedge::Never, ..Patience::READ }, work);
    assert!(tokio::time::timeout(Duration::from_millis(900), late).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_others_is_not_silent() {
    let guard = guard();
    let others = async {
        for _ in 0..100 {
            answered(&guard, Duration::from_millis(50)).await.unwrap();
        }
    };
    let (late, ()) = tokio::join!(silent(&guard, Patience::SMALL), others);
    assert!(matches!(late, Err(CallError::Late { .. })), "{late:?}");
    let counts = guard.counts();
    assert_eq!((counts.opened, counts.late), (0, 2), "it was asked once more");
}

#[tokio::test(start_paused = true)]
async fn who_waits_longer_does_not_once_others_have_found_the_store_silent() {
    let guard = guard();
    answered(&guard, Duration::from_millis(10)).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    let (slow, quick) =
        tokio::join!(silent(&guard, Patience::SLOW), silent(&guard, Patience::READ));
    assert!(slow.is_err() && quick.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(1_080), "not half a minute");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_became_slow_is_waited_for_again() {
    let guard = guard();
    for _ in 0..50 {
        answered(&guard, Duration::from_millis(10)).await.unwrap();
    }
    let began = Instant::now();
    while answered(&guard, Duration::from_millis(1_700)).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(15), "{:?}", began.elapsed());
    for _ in 0..20 {
        answered(&guard, Duration::from_millis(1_700)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_machine_buffers_is_no_sign_of_life() {
    let guard = guard();
    // Bytes are written that nobody takes, while something is read.
    let written = guard.call("Write", Patience::BULK, |progress: Progress| async move {
        progress.made();
        std::future::pending::<Result<u32, Faulty>>().await
    });
    let read = async {
        sleep(Duration::from_millis(1)).await;
        silent(&guard, Patience::READ).await
    };
    let (written, read) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), written), read);
    assert!(written.is_ok_and(|written| written.is_err()) && read.is_err(), "neither waits on");
    let counts = guard.counts();
    // The write is late as well, and opens nothing a second time.
    assert_eq!((counts.late, counts.opened), (2, 1), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_on_silence_has_found_out_that_the_store_is_silent() {
    let guard = guard();
    for (waited, opened) in [(1_900, 0), (2_100, 1)] {
        let asked = silent(&guard, Patience::SLOW);
        assert!(tokio::time::timeout(Duration::from_millis(waited), asked).await.is_err());
        assert_eq!(guard.counts().opened, opened, "after {waited} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_on_a_write_does_not_know_whether_the_store_is_busy_with_it() {
    let guard = guard();
    let written = guard.call("Write", Patience::BULK, |progress: Progress| async move {
        progress.made();
        std::future::pending::<Result<u32, Faulty>>().await
    });
    assert!(tokio::time::timeout(Duration::from_secs(5), written).await.is_err());
    assert_eq!(guard.counts().opened, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_little_and_a_store_that_became_slow_is_found_all_the_same() {
    let guard = guard();
    assert!(silent(&guard, Patience::SMALL).await.is_err());
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    assert!(silent(&guard, Patience::SMALL).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(500));
    let well = Instant::now();
    while answered(&guard, Duration::from_millis(1_500)).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(well.elapsed() <= Duration::from_secs(15), "{:?}", well.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_gets_on_may_take_long() {
    let guard = Guard::seeded("test", GuardLimits::default(), 7);
    let slow = guard.call("Ask", Patience::BULK, |progress: Progress| async move {
        for _ in 0..20 {
            sleep(Duration::from_secs(1)).await;
            progress.made();
        }
        Ok::<u32, Faulty>(1)
    });
    assert_eq!(slow.await, Ok(1));
    let stalled = guard.call("Ask", Patience::BULK, |progress: Progress| async move {
        progress.made();
        std::future::pending::<Result<u32, Faulty>>().await
    });
    assert_eq!(stalled.await, Err(CallError::Late { limit: Duration::from_secs(10) }));
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_is_left_alone_and_costs_nothing_more() {
    let store = Store::new(|_| FAILED);
    for _ in 0..100 {
        assert!(store.ask().await.is_err());
    }
    // Five failures in a row open it; then one probe at a time, at growing distances.
    assert!(store.asked() <= 8, "{}", store.asked());
    assert_eq!(store.guard.counts().opened, 1);
    assert!(matches!(store.ask().await, Err(CallError::Resting { .. })));
    let asked = store.asked();
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert!(store.ask().await.is_err());
    }
    let probes = store.asked() - asked;
    assert!((10..=30).contains(&probes), "{probes} probes in a minute");
}

#[tokio::test(start_paused = true)]
async fn many_at_once_lose_one_deadline_to_a_silent_store() {
    let guard = Guard::seeded("test", GuardLimits::default(), 7);
    let began = Instant::now();
    let silent =
        || guard.call("Ask", Patience::SMALL, |_| std::future::pending::<Result<u32, Faulty>>());
    let ended = join_all((0..200).map(|_| silent())).await;
    assert!(ended.iter().all(Result::is_err));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(guard.counts().spared > 150, "{:?}", guard.counts());
}

#[tokio::test(start_paused = true)]
async fn one_probe_finds_out_that_the_store_is_well() {
    let began = Instant::now();
    let store =
        Store::new(move |_| if began.elapsed() < Duration::from_mins(1) { FAILED } else { Ok(1) });
    while began.elapsed() < Duration::from_mins(1) {
        assert!(store.ask().await.is_err());
        sleep(Duration::from_millis(100)).await;
    }
    let well = Instant::now();
    while store.ask().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(well.elapsed() <= Duration::from_secs(10), "{:?}", well.elapsed());
    assert_eq!(store.guard.counts().opened, 1, "probes that fail do not open it again");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_lets_another_one_go() {
    let store = Store::new(|number| if number < 5 { FAILED } else { Ok(number) });
    while store.guard.counts().opened == 0 {
        assert!(store.ask().await.is_err());
    }
    sleep(Duration::from_secs(2)).await;
    let given_up = tokio::time::timeout(Duration::from_millis(1), store.ask()).await;
    assert!(given_up.is_err());
    assert!(store.ask().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn c05_a_third_of_busy_answers_costs_a_fifth_of_requests_more() {
    let store = Store::new(|number| if number % 10 < 3 { BUSY } else { Ok(number) });
    let mut failed = 0;
    for _ in 0..1000 {
        failed += u32::from(store.ask().await.is_err());
    }
    let counts = store.guard.counts();
    assert!(counts.busy > 200, "{counts:?}");
    let extra = u64::from(store.asked()) - u64::from(1000 - u32::try_from(counts.spared).unwrap());
    assert_eq!(extra, counts.retries);
    assert!(extra <= 1000 / 5 + 10, "{extra} further tries");
    assert!(failed < 300, "{failed} failed");
}

#[tokio::test(start_paused = true)]
async fn c05_busy_answers_only_open_the_breaker_and_it_recovers() {
    let began = Instant::now();
    let minute = Duration::from_mins(1);
    let store = Store::new(move |number| if began.elapsed() < minute { BUSY } else { Ok(number) });
    let mut calls = 0_u32;
    while began.elapsed() < minute {
        calls += 20;
        assert!(join_all((0..20).map(|_| store.ask())).await.iter().all(Result::is_err));
        sleep(Duration::from_millis(100)).await;
    }
    let counts = store.guard.counts();
    assert!(calls > 5000 && store.asked() < 200, "{calls} calls, {counts:?}");
    assert!(store.guard.calls_at_once() < 32);
    let well = Instant::now();
    while store.ask().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(well.elapsed() <= Duration::from_secs(10), "{:?}", well.elapsed());
}

#[tokio::test(start_paused = true)]
async fn fewer_at_once_while_busy_and_more_when_well() {
    let store = Store::new(|number| if number < 16 { BUSY } else { Ok(number) });
    join_all((0..16).map(|_| store.ask())).await;
    assert_eq!(
        store.guard.calls_at_once(),
        16,
        "halved once for those that were under way together"
    );
    for _ in 0..500 {
        let all = join_all((0..10).map(|_| store.ask())).await;
        assert!(all.iter().all(Result::is_ok) || store.guard.calls_at_once() < 32);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.guard.calls_at_once(), 32);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_allowed() {
    let guard = Guard::seeded("test", GuardLimits { calls_max: 3, ..Default::default() }, 7);
    let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = |_| async {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sleep(Duration::from_millis(10)).await;
        now.fetch_sub(1, Ordering::SeqCst);
        Ok::<u32, Faulty>(1)
    };
    let calls = (0..50).map(|_| guard.call("Ask", Patience::SMALL, work));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 3);
}
