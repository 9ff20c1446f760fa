//! The world: what happens when, the links, the clients, the faults, and the end in which everything must
//! have drained.

use crate::{
    Fault, MINUTE, Plan, SECOND, Time, Violation,
    host::{Host, HostId},
    promise,
    server::{Command, Server, Ticket},
    wire::{Down, Up},
};
use fetchml_api::{AttemptId, AttemptPhase, AttemptRecord, ReservationId, TaskId, WorkerId, link::Outcome};
use fetchml_scheduler::NewTask;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};
use uuid::Uuid;

/// How long everything may take to drain once the faults have stopped.
const DRAIN: Time = 6 * 60 * MINUTE;
/// Most happenings of one run: a world that spins is a fault of its own.
const HAPPENINGS_MAX: u64 = 20_000_000;
/// Reports that may wait on one machine.
const SPOOL_MAX: usize = 10_000;

/// Something that is due.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Submit,
    CancelOne,
    Reserve,
    ReleaseOne,
    CancelEndless,
    DrainOne,
    Undrain {
        worker: WorkerId,
    },
    Fault(Fault),
    FaultsEnd,
    Backup,
    ServerStart,
    ServerResumes,
    Turn {
        life: u64,
    },
    Committed {
        life: u64,
    },
    Silence {
        session: u64,
    },
    Closed {
        session: u64,
    },
    Up {
        host: HostId,
        session: u64,
        up: Up,
    },
    Down {
        host: HostId,
        session: u64,
        down: Down,
    },
    /// The agent notices that a session ended; none: whichever it has.
    LinkLost {
        host: HostId,
        session: Option<u64>,
    },
    HostStart {
        host: HostId,
    },
    HostWakes {
        host: HostId,
        boot: u64,
    },
    /// It has had its second to end what should have ended meanwhile.
    HostAwake {
        host: HostId,
        boot: u64,
    },
    AgentStart {
        host: HostId,
    },
    AgentResumes {
        host: HostId,
        life: u64,
    },
    CloneGone {
        host: HostId,
    },
    Connect {
        host: HostId,
        life: u64,
    },
    Tick {
        host: HostId,
        life: u64,
    },
    Staged {
        host: HostId,
        life: u64,
        attempt: AttemptId,
    },
    ShimReady {
        host: HostId,
        life: u64,
        attempt: AttemptId,
    },
    Dead {
        host: HostId,
        life: u64,
        attempt: AttemptId,
        outcome: Outcome,
    },
    Uploaded {
        host: HostId,
        life: u64,
        attempt: AttemptId,
    },
    ProcessEnds {
        host: HostId,
        boot: u64,
        attempt: AttemptId,
    },
    Fence {
        host: HostId,
        boot: u64,
        attempt: AttemptId,
    },
}

/// Where something happens.
enum Place {
    Anywhere,
    Server,
    Machine(HostId, Option<u64>),
    Agent(HostId, u64),
}

impl Happening {
    const fn place(&self) -> Place {
        use Happening as H;
        match *self {
            H::Submit
            | H::CancelOne
            | H::Reserve
            | H::ReleaseOne
            | H::CancelEndless
            | H::DrainOne
            | H::Undrain { .. }
            | H::Fault(_)
            | H::FaultsEnd
            | H::Backup
            | H::ServerStart
            | H::ServerResumes
            | H::HostStart { .. }
            | H::HostWakes { .. }
            | H::AgentResumes { .. }
            | H::CloneGone { .. } => Place::Anywhere,
            H::Turn { .. } | H::Committed { .. } | H::Silence { .. } | H::Closed { .. } | H::Up { .. } => Place::Server,
            H::Down { host, .. } | H::LinkLost { host, .. } | H::AgentStart { host } => Place::Machine(host, None),
            H::ProcessEnds { host, boot, .. } | H::Fence { host, boot, .. } | H::HostAwake { host, boot } => {
                Place::Machine(host, Some(boot))
            }
            H::Connect { host, life }
            | H::Tick { host, life }
            | H::Staged { host, life, .. }
            | H::ShimReady { host, life, .. }
            | H::Dead { host, life, .. }
            | H::Uploaded { host, life, .. } => Place::Agent(host, life),
        }
    }
}

#[derive(Debug)]
struct Due {
    at: Time,
    order: u64,
    happening: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One worker's connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) session: Option<u64>,
    /// When the last message of each direction arrives: they keep their order.
    pub(crate) up_at: Time,
    pub(crate) down_at: Time,
    pub(crate) cut_up_until: Time,
    pub(crate) cut_down_until: Time,
    pub(crate) delay_until: Time,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Submit(TaskId),
    Cancel(TaskId),
    Reserve(ReservationId),
    Release(ReservationId),
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    /// Timing, clients, faults and reservations draw each from their own, so that a plan with one kind of fault less
    /// keeps the rest.
    pub(crate) timing: fastrand::Rng,
    pub(crate) clients: fastrand::Rng,
    pub(crate) mischief: fastrand::Rng,
    pub(crate) reserving: fastrand::Rng,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    pub(crate) server: Server,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: Vec<Link>,
    pub(crate) next_session: u64,
    pub(crate) lost_sessions: BTreeSet<u64>,
    /// Sessions before this one were opened to a server that is dead.
    pub(crate) first_session: u64,
    /// Immutable parts of all tasks that were ever submitted.
    pub(crate) specs: BTreeMap<TaskId, NewTask>,
    pub(crate) next_task: u32,
    pub(crate) next_ticket: Ticket,
    pub(crate) tickets: BTreeMap<Ticket, Request>,
    pub(crate) next_reservation: u32,
    pub(crate) acknowledged: BTreeSet<TaskId>,
    /// Attempts whose user code has begun; of a gang, on which machine.
    pub(crate) began: BTreeSet<(AttemptId, Option<HostId>)>,
    /// Reservations whose making was acknowledged.
    pub(crate) reserved: BTreeSet<ReservationId>,
    /// What agents have said of attempts.
    pub(crate) told: BTreeSet<(AttemptId, AttemptPhase)>,
    /// Attempts whose end nobody saw.
    pub(crate) unseen: BTreeSet<AttemptId>,
    /// Machines with a copied or copying data directory.
    pub(crate) excused: BTreeSet<HostId>,
    /// Since an older copy of the database was put in place, what ran before may run twice.
    pub(crate) restored_backup: bool,
    pub(crate) faults_over: bool,
    pub(crate) broken: Option<Violation>,
    watch: Box<dyn Fn(Time, fmt::Arguments<'_>)>,
    trace: DefaultHasher,
    happenings: u64,
    pub(crate) counts: BTreeMap<Fault, u64>,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The plan.
    pub plan: Plan,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Hash over all that happened.
    pub trace: u64,
    /// Simulated time, microseconds.
    pub simulated_us: i64,
    /// Things that happened.
    pub happenings: u64,
    /// Submits that were acknowledged.
    pub acknowledged: u64,
    /// How often each fault struck.
    pub faults: BTreeMap<Fault, u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.violation {
            None => write!(f, "{}: clean, {} events, trace {:016x}", self.plan, self.happenings, self.trace),
            Some(Violation(said)) => {
                let seconds = self.simulated_us as f64 / SECOND as f64;
                write!(f, "{}: after {seconds:.3} s: {said}", self.plan)
            }
        }
    }
}

/// Runs a plan to its end or to the first broken promise. A panic of the core is a broken promise.
pub fn run(plan: &Plan) -> Report {
    run_watched(plan, |_, _| {})
}

/// As [`run`]; `watch` sees everything that happens, as text, with its time in microseconds.
pub fn run_watched(plan: &Plan, watch: impl Fn(i64, fmt::Arguments<'_>) + 'static) -> Report {
    let mut world = World::new(plan.clone());
    world.watch = Box::new(watch);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            Some(Violation(format!("the core panicked: {}", said.unwrap_or_default())))
        }
    };
    Report {
        plan: plan.clone(),
        violation,
        trace: world.trace.finish(),
        simulated_us: world.now,
        happenings: world.happenings,
        acknowledged: world.acknowledged.len() as u64,
        faults: world.counts,
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        let stream = |n: u64| fastrand::Rng::with_seed(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n);
        let mut world = Self {
            now: 0,
            timing: stream(1),
            clients: stream(2),
            mischief: stream(3),
            reserving: stream(4),
            due: BinaryHeap::new(),
            order: 0,
            server: Server::new(),
            hosts: Vec::new(),
            links: Vec::new(),
            next_session: 1,
            first_session: 1,
            lost_sessions: BTreeSet::new(),
            specs: BTreeMap::new(),
            next_task: 1,
            next_ticket: 1,
            tickets: BTreeMap::new(),
            next_reservation: 1,
            acknowledged: BTreeSet::new(),
            reserved: BTreeSet::new(),
            began: BTreeSet::new(),
            told: BTreeSet::new(),
            unseen: BTreeSet::new(),
            excused: BTreeSet::new(),
            restored_backup: false,
            faults_over: false,
            broken: None,
            watch: Box::new(|_, _| {}),
            trace: DefaultHasher::new(),
            happenings: 0,
            counts: BTreeMap::new(),
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let faults_end = self.faults_end();
        self.at(0, Happening::ServerStart);
        for n in 0..self.plan.workers {
            let worker = WorkerId(Uuid::from_u128(0x0180_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)));
            let cores = [1, 2, 4, 8][self.clients.usize(..4)];
            let gpus = [0, 0, 1, 4][self.clients.usize(..4)];
            // The first has all there is, so that every task fits somewhere.
            let (cores, gpus) = if n == 0 { (8, 4) } else { (cores, gpus) };
            self.add_host(worker, cores, gpus);
            let host = n as usize;
            self.after(0..3 * SECOND, Happening::AgentStart { host });
        }
        for _ in 0..self.plan.tasks {
            let at = self.clients.i64(0..faults_end.max(1));
            self.at(at, Happening::Submit);
            if self.clients.u32(..10) == 0 {
                let at = self.clients.i64(0..faults_end.max(1));
                self.at(at, Happening::CancelOne);
            }
        }
        for _ in 0..self.plan.minutes / 5 {
            let at = self.clients.i64(0..faults_end.max(1));
            self.at(at, Happening::DrainOne);
        }
        for _ in 0..self.plan.tasks / 8 {
            let at = self.reserving.i64(0..faults_end.max(1));
            self.at(at, Happening::Reserve);
            if self.reserving.u32(..4) == 0 {
                let at = self.reserving.i64(0..faults_end.max(1));
                self.at(at, Happening::ReleaseOne);
            }
        }
        for fault in self.plan.faults.clone() {
            self.schedule_fault(fault);
        }
        if self.plan.faults.contains(&Fault::RestoredBackup) {
            for quarter in 0..4 {
                self.at(quarter * faults_end / 4, Happening::Backup);
            }
        }
        self.at(faults_end, Happening::FaultsEnd);
    }

    pub(crate) fn add_host(&mut self, worker: WorkerId, cores: u32, gpus: u32) -> HostId {
        let id = self.hosts.len();
        self.hosts.push(Host::new(id, worker, cores, gpus));
        self.links.push(Link::default());
        id
    }

    pub(crate) fn schedule_fault(&mut self, fault: Fault) {
        if let Some(every) = fault.every() {
            // Exponential: no memory, as accidents have none.
            let wait = -(1.0 - self.mischief.f64()).ln() * every as f64;
            self.at(self.now + wait as Time, Happening::Fault(fault));
        }
    }

    pub(crate) fn faults_end(&self) -> Time {
        Time::from(self.plan.minutes) * MINUTE
    }

    fn run(&mut self) -> Result<(), Violation> {
        let end = self.faults_end() + DRAIN;
        while let Some(Reverse(Due { at, happening, .. })) = self.due.pop() {
            promise!(at <= end, "not everything drained:\n{}", self.describe());
            self.now = at;
            if let Some(later) = self.deferred(&happening) {
                self.at(later, happening);
                continue;
            }
            self.happenings += 1;
            promise!(self.happenings < HAPPENINGS_MAX, "the world spins:\n{}", self.describe());
            (at, std::mem::discriminant(&happening)).hash(&mut self.trace);
            (self.watch)(at, format_args!("{happening:?}"));
            self.happen(happening)?;
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
            if self.faults_over && self.is_quiet() {
                return self.check_end();
            }
        }
        Err(Violation("nothing is due any more, and not everything ended".into()))
    }

    /// What stands still does nothing; what is gone never will.
    fn deferred(&self, happening: &Happening) -> Option<Time> {
        match happening.place() {
            Place::Anywhere => None,
            Place::Server => self.server.paused_until.filter(|until| *until > self.now),
            Place::Machine(h, _) => self.hosts[h].asleep_until.filter(|until| *until > self.now),
            Place::Agent(h, _) => {
                let host = &self.hosts[h];
                let paused = host.agent.as_ref().and_then(|agent| agent.paused_until);
                host.asleep_until.max(paused).filter(|until| *until > self.now)
            }
        }
    }

    fn is_there(&self, happening: &Happening) -> bool {
        match happening.place() {
            Place::Anywhere | Place::Server => true,
            Place::Machine(h, boot) => self.hosts[h].on && boot.is_none_or(|boot| boot == self.hosts[h].boot),
            Place::Agent(h, life) => {
                let host = &self.hosts[h];
                host.on && host.agent.as_ref().is_some_and(|agent| agent.life == life)
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        use Happening as H;
        if !self.is_there(&happening) {
            return Ok(());
        }
        match happening {
            H::Submit => self.submit(),
            H::CancelOne => self.cancel_one(),
            H::Reserve => self.reserve(),
            H::ReleaseOne => self.release_one(),
            H::CancelEndless => self.cancel_endless(),
            H::DrainOne => self.drain_one(),
            H::Undrain { worker } => self.tell(Command::Undrain(worker)),
            H::Fault(fault) => self.strike(fault)?,
            H::FaultsEnd => self.end_faults(),
            H::Backup => self.server.backup = Some(self.server.database.clone()),
            H::ServerStart => {
                self.server_start()?;
                self.check_acknowledged()?;
            }
            H::ServerResumes => self.server.paused_until = None,
            H::Turn { life } => self.on_turn(life),
            H::Committed { life } => self.on_committed(life)?,
            H::Silence { session } => self.on_silence(session, false),
            H::Closed { session } => self.on_silence(session, true),
            H::Up { host, session, up } => {
                if session >= self.first_session && !self.lost_sessions.contains(&session) {
                    self.on_up(host, session, up);
                }
            }
            H::Down { host, session, down } => self.on_down(host, session, down),
            H::LinkLost { host, session } => {
                let has = self.hosts[host].agent.as_ref().and_then(|agent| agent.session);
                if has.is_some() && (session.is_none() || session == has) {
                    self.link_lost(host);
                }
            }
            H::HostStart { host } => self.host_start(host),
            H::HostWakes { host, boot } => self.host_wakes(host, boot),
            H::HostAwake { host, .. } => self.check_copies(host)?,
            H::AgentStart { host } => self.agent_start(host),
            H::AgentResumes { host, life } => {
                let now = self.now;
                if let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| agent.life == life) {
                    (agent.paused_until, agent.resumed_at) = (None, now);
                }
            }
            H::CloneGone { host } => self.clone_gone(host),
            H::Connect { host, .. } => self.on_connect(host),
            H::Tick { host, .. } => self.on_tick(host),
            H::Staged { host, attempt, .. } => self.on_staged(host, attempt),
            H::ShimReady { host, attempt, .. } => self.on_shim_ready(host, attempt)?,
            H::Dead { host, attempt, outcome, .. } => self.on_dead(host, attempt, outcome),
            H::Uploaded { host, attempt, .. } => self.on_uploaded(host, attempt),
            H::ProcessEnds { host, attempt, .. } => self.on_process_ends(host, attempt),
            H::Fence { host, attempt, .. } => self.on_fence(host, attempt),
        }
        Ok(())
    }

    pub(crate) fn at(&mut self, at: Time, happening: Happening) {
        self.order += 1;
        self.due.push(Reverse(Due { at: at.max(self.now), order: self.order, happening }));
    }

    pub(crate) fn after(&mut self, within: Range<Time>, happening: Happening) {
        let wait = self.timing.i64(within);
        self.at(self.now + wait, happening);
    }

    pub(crate) fn draw<T>(&mut self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.timing)
    }

    fn is_quiet(&self) -> bool {
        let all_back = self.hosts.iter().filter(|host| host.clone_of.is_none()).all(|host| {
            host.is_awake()
                && host.shims.is_empty()
                && host.disk.spool.is_empty()
                && host.disk.taken.is_empty()
                && host.agent.as_ref().is_some_and(|agent| agent.is_idle() && agent.session.is_some())
        });
        all_back && self.server.is_drained()
    }

    fn check_end(&self) -> Result<(), Violation> {
        self.check_acknowledged()?;
        self.compare()
    }

    /// What is durable of an attempt is what its own agent said of it; an exit that nobody saw is never 0.
    pub(crate) fn check_attempt(&self, record: &AttemptRecord) -> Result<(), Violation> {
        let (id, phase) = (record.id, record.phase);
        let by_agent = matches!(phase, AttemptPhase::Running | AttemptPhase::Collecting | AttemptPhase::Ended);
        // That a tree is dead says that it was alive.
        let implied = phase == AttemptPhase::Running && self.told.contains(&(id, AttemptPhase::Collecting));
        let gang = !record.nodes.is_empty();
        // A gang is over when each node has said so or is given up.
        let implied = implied || (gang && record.nodes.iter().all(|node| node.phase == AttemptPhase::Abandoned));
        promise!(!by_agent || implied || self.told.contains(&(id, phase)), "nobody said that {id} is {phase:?}");
        for node in &record.nodes {
            if node.phase == AttemptPhase::Abandoned {
                self.check_given_up(id, Some(node.worker_id))?;
            }
            promise!(!phase.is_over() || node.phase.is_over(), "{id} is over, and not its node on {}", node.worker_id);
        }
        let success = record.outcome.as_ref().is_some_and(|outcome| outcome.cause.is_none());
        promise!(!(success && self.unseen.contains(&id)), "nobody saw how {id} ended, and it is completed");
        let complete = record.nodes.iter().all(|node| node.phase >= AttemptPhase::Collecting);
        promise!(!success || complete, "{id} is completed, and not each of its nodes");
        if phase == AttemptPhase::Abandoned { self.check_given_up(id, None) } else { Ok(()) }
    }

    pub(crate) fn check_spool(&self) -> Result<(), Violation> {
        let longest = self.hosts.iter().map(|host| host.disk.spool.len()).max().unwrap_or(0);
        promise!(longest < SPOOL_MAX, "a spool holds {longest} reports");
        Ok(())
    }

    fn describe(&self) -> String {
        let mut said = self.server.describe();
        for host in self.hosts.iter().filter(|host| host.clone_of.is_none()) {
            let agent = host.agent.as_ref().map(|agent| (agent.session, agent.is_idle()));
            let _ = writeln!(
                said,
                "machine {}: on {} awake {} agent {agent:?} shims {} spool {} taken {:?}",
                host.id,
                host.on,
                host.is_awake(),
                host.shims.len(),
                host.disk.spool.len(),
                host.disk.taken.keys().collect::<Vec<_>>()
            );
        }
        said
    }
}
