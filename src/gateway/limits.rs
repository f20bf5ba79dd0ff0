//! Who has asked how often. One count per limit and caller, shared by all data threads, kept over reloads.
//!
//! The algorithm is GCRA: a limit of 60 a minute lets 60 requests through at once after a pause, and one a second after
//! that; there is no window whose edge lets twice as many through. A refused request costs the caller nothing.
//! A caller with IPv6 is a /64; a /48 has places for so many of those, and all others of it share one budget.
//!
//! **What a flood of callers costs.** Every limit counts at most `CALLERS` callers one by one. Entries that say no more
//! than none are dropped on the way. Whoever comes when all places are taken shares one of `SHARED` budgets with
//! others: refusing strangers would let a flood lock everybody out, and letting them pass would let a flood switch the
//! limit off. Which budget that is depends on a secret of this process, so nobody can choose whose it is.
//!
//! **What a flood of refusals costs.** Each has its line in `access.log`. The audit gets the first of each caller, once in
//! the limit's time and at most once a minute, and `AUDITED` a minute of all callers of a limit together; the next record
//! says how many were left out.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{
        InMemoryState, StateStore,
        direct::NotKeyed,
        keyed::{DashMapStateStore, ShrinkableKeyedStateStore},
    },
};

use crate::{
    model::Principal,
    policy::{Application, Limit, Per, Permit, Rule},
};

/// Callers that a limit counts one by one: an entry has about 50 bytes, so some 4 MiB at most.
const CALLERS: usize = 65_536;
/// Places for one /48 of IPv6, which is what a single customer often has: 65,536 networks that each count as a caller.
const CALLERS_OF_48: u32 = 1024;
/// Budgets that all others share.
const SHARED: u64 = 4096;
/// New callers after which a limit looks for entries to drop, so that looking at all of them costs each a few.
const SWEEP: usize = CALLERS / 4;
/// Audit records of one limit in a minute, whoever was refused.
const AUDITED: NonZeroU32 = NonZeroU32::new(60).expect("not zero");
/// The audit hears of a caller once in the limit's time, but not more often than this.
const AUDIT_LEAST: Duration = Duration::from_secs(60);

/// It was asked too often.
#[derive(Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// From now until the next request is let through.
    wait: Duration,
    /// Whether the audit is told, and how many refusals it was not told of since the last record.
    pub unrecorded: Option<u64>,
}

impl Exceeded {
    /// Whole seconds, after which a request is let through.
    pub fn seconds(&self) -> u64 {
        let more = u64::from(self.wait.subsec_nanos() > 0);
        (self.wait.as_secs() + more).max(1)
    }
}

/// All counts.
#[derive(Default)]
pub struct Limits<C: Clock = MonotonicClock> {
    clock: C,
    by_id: RwLock<HashMap<Arc<str>, Arc<Counts<C>>>>,
    /// By application: what the audit hears of rules that only report.
    reports: RwLock<HashMap<Arc<str>, Arc<Telling<C>>>>,
}

impl<C: Clock + Clone> Limits<C> {
    /// Counts a request before anybody is asked who they are: what is limited per address in `[app]`, which spares the
    /// hashing of passwords.
    ///
    /// # Errors
    /// It is one too many.
    pub fn count_before(&self, app: &Application, address: IpAddr) -> Result<(), Exceeded> {
        let limits = app.limits.iter().filter(|limit| limit.per == Per::Address);
        self.count_each(limits, address, &Principal::Anonymous)
    }

    /// Counts a request that the rules allow: what else is limited in `[app]`, and by the rule that decided.
    ///
    /// # Errors
    /// It is one too many.
    pub fn count(&self, permit: &Permit, address: IpAddr) -> Result<(), Exceeded> {
        let of_app = permit.app().limits.iter().filter(|limit| limit.per != Per::Address);
        self.count_each(of_app.chain(permit.limits()), address, permit.principal())
    }

    /// Whether the audit is told what a rule that only reports would have refused, at most `AUDITED` times a minute for
    /// each application, and how many it was not told of before.
    pub fn may_report(&self, application: &Arc<str>) -> Option<u64> {
        let new = || Arc::new(Telling::new(self.clock.clone()));
        found_or(&self.reports, application, new).tell(true)
    }

    /// Drops the counts of limits that are no longer among these applications'.
    pub fn keep(&self, applications: &[Arc<Application>]) {
        let of_rules = applications.iter().flat_map(|app| app.rules.iter()).flat_map(Rule::limits);
        let of_apps = applications.iter().flat_map(|app| &app.limits);
        let ids: HashSet<_> = of_rules.chain(of_apps).map(|limit| &limit.id).collect();
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(id));
    }

    fn count_each<'l>(
        &self,
        limits: impl Iterator<Item = &'l Limit>,
        address: IpAddr,
        principal: &Principal,
    ) -> Result<(), Exceeded> {
        for limit in limits {
            self.counts(limit).count(&Caller::of(limit.per, address, principal))?;
        }
        Ok(())
    }

    fn counts(&self, limit: &Limit) -> Arc<Counts<C>> {
        found_or(&self.by_id, &limit.id, || Arc::new(Counts::new(limit, self.clock.clone())))
    }
}

fn found_or<T>(all: &RwLock<HashMap<Arc<str>, Arc<T>>>, key: &Arc<str>, new: impl FnOnce() -> Arc<T>) -> Arc<T> {
    let known = all.read().unwrap_or_else(PoisonError::into_inner).get(key).map(Arc::clone);
    known.unwrap_or_else(|| {
        let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(key)).or_insert_with(new))
    })
}

/// What the audit is told of something that may happen without end.
struct Telling<C: Clock> {
    often: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    unrecorded: AtomicU64,
}

impl<C: Clock + Clone> Telling<C> {
    fn new(clock: C) -> Self {
        let often = RateLimiter::direct_with_clock(quota(AUDITED, AUDIT_LEAST), clock);
        Self { often, unrecorded: AtomicU64::new(0) }
    }

    /// `Some` with how many were left out, if it is told now.
    fn tell(&self, wanted: bool) -> Option<u64> {
        if wanted && self.often.check().is_ok() {
            return Some(self.unrecorded.swap(0, Ordering::Relaxed));
        }
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// For whom one count is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    Name(Arc<str>),
    Token(Arc<str>),
    V4(u32),
    /// The /64: a client has all of it, and can come from another address each time.
    V6(u128),
    /// All of a /48 beyond its places.
    Wide(u128),
    /// Whoever found no place.
    Shared(u64),
}

impl Caller {
    fn of(per: Per, address: IpAddr, principal: &Principal) -> Self {
        let verified = principal.verified().filter(|_| per != Per::Address);
        match verified {
            Some(verified) => match verified.credential.as_ref().filter(|_| per == Per::Token) {
                Some(token) => Self::Token(Arc::clone(token)),
                None => Self::Name(verified.name.shared()),
            },
            None => match address.to_canonical() {
                IpAddr::V4(address) => Self::V4(address.to_bits()),
                IpAddr::V6(address) => Self::V6(address.to_bits() >> 64),
            },
        }
    }
}

/// What is counted for one limit.
struct Counts<C: Clock> {
    requests: Bounded<C>,
    /// Which callers the audit has heard of lately ..
    told: Bounded<C>,
    /// .. and how often it was told at all.
    telling: Telling<C>,
    clock: C,
}

impl<C: Clock + Clone> Counts<C> {
    fn new(limit: &Limit, clock: C) -> Self {
        let hearing = limit.window.max(AUDIT_LEAST);
        Self {
            requests: Bounded::new(quota(limit.requests, limit.window), clock.clone()),
            told: Bounded::new(quota(NonZeroU32::MIN, hearing), clock.clone()),
            telling: Telling::new(clock.clone()),
            clock,
        }
    }

    fn count(&self, caller: &Caller) -> Result<(), Exceeded> {
        let Err(until) = self.requests.check(caller) else { return Ok(()) };
        // In this order: a caller who is known already must not use up what others need.
        let unrecorded = self.telling.tell(self.told.check(caller).is_ok());
        Err(Exceeded { wait: until.wait_time_from(self.clock.now()), unrecorded })
    }
}

/// So many at once, and so many in every window.
fn quota(requests: NonZeroU32, window: Duration) -> Quota {
    // Only a window of nothing has no quota, and the policy knows no such limit.
    Quota::with_period(window / requests.get()).unwrap_or(Quota::per_second(requests)).allow_burst(requests)
}

/// Counts by caller, of a bounded number of them.
struct Bounded<C: Clock> {
    limiter: RateLimiter<Caller, Callers, C, NoOpMiddleware<C::Instant>>,
    /// Callers that came anew since the last sweep.
    new: Arc<AtomicUsize>,
}

impl<C: Clock> Bounded<C> {
    fn new(quota: Quota, clock: C) -> Self {
        let callers = Callers::default();
        let new = Arc::clone(&callers.new);
        Self { limiter: RateLimiter::new(quota, callers, clock), new }
    }

    fn check(&self, caller: &Caller) -> Result<(), NotUntil<C::Instant>> {
        let outcome = self.limiter.check_key(caller);
        if self.new.load(Ordering::Relaxed) >= SWEEP {
            self.new.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
        }
        outcome
    }
}

/// Where governor keeps them.
#[derive(Default)]
struct Callers {
    known: DashMapStateStore<Caller>,
    /// Places that each /48 has.
    wide: Mutex<HashMap<u128, u32>>,
    new: Arc<AtomicUsize>,
    secret: RandomState,
}

impl StateStore for Callers {
    type Key = Caller;

    fn measure_and_replace<T, F, E>(&self, caller: &Caller, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if self.known.contains_key(caller) {
            return self.known.measure_and_replace(caller, measure);
        }
        let wide = match caller {
            Caller::V6(network) => Some(Caller::Wide(network >> 16)).filter(|_| self.has_its_places(network >> 16)),
            _ => None,
        };
        if let Some(wide) = wide.as_ref().filter(|wide| self.known.contains_key(wide)) {
            return self.known.measure_and_replace(wide, measure);
        }
        self.new.fetch_add(1, Ordering::Relaxed);
        if self.known.len() < CALLERS {
            if let (Caller::V6(network), None) = (caller, &wide) {
                *self.wide.lock().unwrap_or_else(PoisonError::into_inner).entry(network >> 16).or_default() += 1;
            }
            return self.known.measure_and_replace(wide.as_ref().unwrap_or(caller), measure);
        }
        let shared = Caller::Shared(self.secret.hash_one(caller) % SHARED);
        self.known.measure_and_replace(&shared, measure)
    }
}

impl Callers {
    fn has_its_places(&self, wide: u128) -> bool {
        let places = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&wide).is_some_and(|places| *places >= CALLERS_OF_48)
    }
}

impl ShrinkableKeyedStateStore<Caller> for Callers {
    fn retain_recent(&self, drop_below: Nanos) {
        self.known.retain_recent(drop_below);
        let mut places = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        places.clear();
        for entry in &self.known {
            if let Caller::V6(network) = entry.key() {
                *places.entry(network >> 16).or_default() += 1;
            }
        }
    }

    fn len(&self) -> usize {
        self.known.len()
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(requests: u32, seconds: u64) -> Limit {
        let window = Duration::from_secs(seconds);
        Limit::new(NonZeroU32::new(requests).unwrap(), window, Per::Address, "a limit")
    }

    fn counts(requests: u32, seconds: u64) -> (Counts<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Counts::new(&limit(requests, seconds), clock.clone()), clock)
    }

    #[test]
    fn so_many_come_at_once_and_then_evenly() {
        let (counts, clock) = counts(3, 60);
        let caller = Caller::V4(1);
        assert_eq!([(); 3].map(|()| counts.count(&caller).is_ok()), [true; 3]);
        let refused = counts.count(&caller).unwrap_err();
        assert_eq!((refused.seconds(), refused.unrecorded), (20, Some(0)));
        clock.advance(Duration::from_millis(19_500));
        assert_eq!(counts.count(&caller).unwrap_err().seconds(), 1, "half a second is told as a whole one");
        clock.advance(Duration::from_millis(500));
        assert!(counts.count(&caller).is_ok(), "what was refused has cost nothing");
        assert!(counts.count(&caller).is_err());
        assert!(counts.count(&Caller::V4(2)).is_ok(), "another has a budget of his own");
    }

    #[test]
    fn a_million_callers_take_the_room_of_some_and_are_limited_all_the_same() {
        let (counts, _) = counts(2, 3600);
        let mut let_through = 0;
        for address in 0..1_000_000 {
            let_through += usize::from(counts.count(&Caller::V4(address)).is_ok());
        }
        let shared = usize::try_from(SHARED).unwrap();
        for bounded in [&counts.requests, &counts.told] {
            assert!(bounded.limiter.len() <= CALLERS + shared, "{}", bounded.limiter.len());
        }
        assert_eq!(let_through, CALLERS + 2 * shared, "whoever found no place has shared a budget");
        let known = Caller::V4(0);
        assert!(
            counts.count(&known).is_ok() && counts.count(&known).is_err(),
            "the first are still counted one by one"
        );
    }

    #[test]
    fn the_audit_hears_of_rules_that_report_so_often_and_then_how_often_it_did_not() {
        let limits = Limits::<FakeRelativeClock>::default();
        let (app, other) = (Arc::from("/app"), Arc::from("/other"));
        let told = (0..1000).filter(|_| limits.may_report(&app) == Some(0)).count();
        assert_eq!(told, 60);
        assert_eq!(limits.may_report(&other), Some(0), "every application has its own");
        limits.clock.advance(Duration::from_secs(1));
        assert_eq!(limits.may_report(&app), Some(940));
    }

    #[test]
    fn a_customer_with_many_networks_does_not_take_everybodys_place() {
        let (counts, clock) = counts(2, 3600);
        let wide = |prefix: u128| (0..65_536).map(move |network| Caller::V6(prefix << 16 | network));
        let let_through = wide(1).filter(|caller| counts.count(caller).is_ok()).count();
        assert_eq!(let_through, usize::try_from(CALLERS_OF_48).unwrap() + 2, "the rest of it has shared one budget");
        assert!(counts.requests.limiter.len() < CALLERS / 32);
        let others = [Caller::V6(2 << 16), Caller::V4(7)];
        assert!(others.iter().all(|caller| counts.count(caller).is_ok()), "others are counted one by one");
        // What says no more than nothing is dropped, and with it the places.
        clock.advance(Duration::from_secs(7200));
        for address in 0..=u32::try_from(SWEEP).unwrap() {
            let _ = counts.count(&Caller::V4(address));
        }
        assert_eq!(wide(1).take(100).filter(|caller| counts.count(caller).is_ok()).count(), 100);
    }

    #[test]
    fn callers_whose_budget_is_whole_again_are_forgotten() {
        let (counts, clock) = counts(1, 1);
        for address in 0..1_000_000 {
            if address % 1000 == 0 {
                clock.advance(Duration::from_secs(1));
            }
            assert!(counts.count(&Caller::V4(address)).is_ok(), "there is always a place");
        }
        assert!(counts.requests.limiter.len() <= SWEEP + 2000, "{}", counts.requests.limiter.len());
    }

    #[test]
    fn the_audit_hears_of_each_caller_once_and_of_how_many_it_was_not_told() {
        let (counts, clock) = counts(1, 1);
        let caller = Caller::V4(1);
        counts.count(&caller).unwrap();
        assert_eq!(counts.count(&caller).unwrap_err().unrecorded, Some(0));
        for _ in 0..5 {
            assert_eq!(counts.count(&caller).unwrap_err().unrecorded, None);
        }
        clock.advance(AUDIT_LEAST);
        counts.count(&caller).unwrap();
        assert_eq!(counts.count(&caller).unwrap_err().unrecorded, Some(5));
        let mut records = 0;
        for address in 100..1100 {
            counts.count(&Caller::V4(address)).unwrap();
            records += u32::from(counts.count(&Caller::V4(address)).unwrap_err().unrecorded.is_some());
        }
        assert_eq!(records, AUDITED.get() - 1, "all callers of a limit together are bounded too");
    }

    #[test]
    fn addresses_are_counted_as_what_one_client_has() {
        let of = |address: &str| Caller::of(Per::User, address.parse().unwrap(), &Principal::Anonymous);
        assert_eq!(of("192.0.2.1"), Caller::V4(Ipv4Addr::new(192, 0, 2, 1).to_bits()));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
