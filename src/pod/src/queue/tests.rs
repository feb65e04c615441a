//! The policy, asked about every state, and driven by random requests and ends of work.

use proptest::prelude::*;

use super::*;

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

/// What the driver does with a verdict, without a kernel: enough of it to reach every state that it reaches.
#[derive(Debug, Default)]
struct Sim {
    facts: Facts,
    kept: Vec<(usize, Ask)>,
    waiting: Vec<(usize, Job)>,
    answered: BTreeMap<usize, Result<(), Refusal>>,
    asked: usize,
    created: u8,
    gone: bool,
}

impl Sim {
    fn ask(&mut self, ask: Ask) {
        let number = self.asked;
        self.asked += 1;
        self.handle(number, ask);
    }

    fn handle(&mut self, number: usize, ask: Ask) {
        let verdict = decide(&self.facts, &ask);
        match verdict {
            Verdict::Begin => {
                let job = self.begin(&ask);
                assert!(self.facts.jobs.insert(job.clone()), "{job:?} began twice");
                self.waiting.push((number, job));
            }
            Verdict::Join(job) => {
                assert!(self.facts.jobs.contains(&job), "{ask:?} joins {job:?}, which is not under way");
                self.waiting.push((number, job));
            }
            Verdict::Done => drop(self.answered.insert(number, Ok(()))),
            Verdict::Refuse(refusal) => drop(self.answered.insert(number, Err(refusal))),
            Verdict::Keep | Verdict::Hasten(_) => {
                assert!(!self.facts.jobs.is_empty(), "{ask:?} is kept, and nothing is under way");
                self.keep(number, ask);
            }
            Verdict::KillFirst => {
                let Ask::Remove(container) = &ask else { panic!("only a removal kills first") };
                assert!(self.facts.jobs.insert(Job::Stop(container.clone())), "a second stop began");
                self.keep(number, ask);
            }
        }
    }

    fn keep(&mut self, number: usize, ask: Ask) {
        self.facts.end_is_asked_for |= matches!(ask, Ask::StopPod | Ask::RemovePod);
        self.kept.push((number, ask));
    }

    fn begin(&mut self, ask: &Ask) -> Job {
        match ask {
            Ask::Run { .. } => Job::Run,
            Ask::StopPod => {
                self.facts.pod = PodFact::Stopping;
                Job::StopPod
            }
            Ask::RemovePod => {
                self.facts.pod = PodFact::Removing;
                Job::RemovePod
            }
            Ask::Create { .. } => {
                assert_eq!(self.facts.pod, PodFact::Ready);
                self.created += 1;
                let new = id(self.created);
                self.facts.containers.insert(new.clone(), ContainerFact::Creating);
                Job::Create(new)
            }
            Ask::Start(container) => {
                assert_eq!(self.facts.pod, PodFact::Ready);
                self.facts.containers.insert(container.clone(), ContainerFact::Starting);
                Job::Start(container.clone())
            }
            Ask::Stop(container) => Job::Stop(container.clone()),
            Ask::Remove(container) => {
                assert_ne!(self.facts.containers[container], ContainerFact::Running, "removed alive");
                self.facts.containers.insert(container.clone(), ContainerFact::Removing);
                Job::Remove(container.clone())
            }
            Ask::Update(container, _) => Job::Update(container.clone()),
        }
    }

    /// Some work ends, well or badly.
    fn end_one(&mut self, which: usize, well: bool) {
        let Some(job) = self.facts.jobs.iter().nth(which % self.facts.jobs.len().max(1)).cloned() else {
            return;
        };
        self.facts.jobs.remove(&job);
        match (&job, well) {
            (Job::Run, true) => self.facts.pod = PodFact::Ready,
            (Job::Run, false) | (Job::RemovePod, true) => self.gone = true,
            (Job::StopPod, true) => {
                self.kill_all();
                self.facts.pod = PodFact::NotReady;
            }
            (Job::Create(c), true) => drop(self.facts.containers.insert(c.clone(), ContainerFact::Created)),
            (Job::Create(c), false) | (Job::Remove(c), true) => drop(self.facts.containers.remove(c)),
            (Job::Start(c), true) => drop(self.facts.containers.insert(c.clone(), ContainerFact::Running)),
            (Job::Start(c), false) => self.die(&c.clone()),
            (Job::Stop(c), true) => self.die(&c.clone()),
            (Job::Stop(c), false) => {
                let (failed, kept) = std::mem::take(&mut self.kept)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(_, ask)| *ask == Ask::Remove(c.clone()));
                self.kept = kept;
                for (number, _) in failed {
                    self.answered.insert(number, Ok(()));
                }
            }
            (Job::Update(_) | Job::Reap(_), _) | (Job::StopPod | Job::RemovePod | Job::Remove(_), false) => {}
        }
        for (number, _) in self.waiting.extract_if(.., |(_, waited)| *waited == job) {
            self.answered.insert(number, Ok(()));
        }
        for (number, ask) in std::mem::take(&mut self.kept) {
            self.handle(number, ask);
        }
        self.facts.end_is_asked_for =
            self.kept.iter().any(|(_, ask)| matches!(ask, Ask::StopPod | Ask::RemovePod));
    }

    fn die(&mut self, container: &ContainerId) {
        if let Some(fact @ (ContainerFact::Running | ContainerFact::Starting)) =
            self.facts.containers.get_mut(container)
        {
            *fact = ContainerFact::Exited;
            self.facts.jobs.insert(Job::Reap(container.clone()));
        }
    }

    fn kill_all(&mut self) {
        for container in self.facts.containers.keys().cloned().collect::<Vec<_>>() {
            self.die(&container);
        }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Ask(Ask),
    End(usize, bool),
    Die(u8),
}

fn moves() -> impl Strategy<Value = Move> {
    let container = 1..4_u8;
    prop_oneof![
        1 => Just(Move::Ask(Ask::Run { same_request: true })),
        1 => Just(Move::Ask(Ask::StopPod)),
        1 => Just(Move::Ask(Ask::RemovePod)),
        4 => Just(Move::Ask(Ask::Create { taken: None })),
        2 => (container.clone(), any::<bool>())
            .prop_map(|(c, same)| Move::Ask(Ask::Create { taken: Some((id(c), same)) })),
        4 => container.clone().prop_map(|c| Move::Ask(Ask::Start(id(c)))),
        3 => container.clone().prop_map(|c| Move::Ask(Ask::Stop(id(c)))),
        3 => container.clone().prop_map(|c| Move::Ask(Ask::Remove(id(c)))),
        2 => container.clone().prop_map(|c| Move::Ask(Ask::Update(id(c), Resources::default()))),
        12 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(n, well)| Move::End(n, well)),
        2 => container.prop_map(Move::Die),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: nothing begins twice, nothing joins what is not under way,
    /// nothing new begins in a pod that is ending, and once all work has ended everyone has an answer.
    #[test]
    fn everyone_is_answered(moves in prop::collection::vec(moves(), 1..60)) {
        let mut sim = Sim::default();
        sim.ask(Ask::Run { same_request: true });
        for step in moves {
            if sim.gone {
                break;
            }
            match step {
                Move::Ask(ask) => sim.ask(ask),
                Move::End(which, well) => sim.end_one(which, well),
                Move::Die(n) => sim.die(&id(n)),
            }
        }
        let mut left = 1000;
        while !sim.gone && !sim.facts.jobs.is_empty() {
            sim.end_one(0, true);
            left -= 1;
            prop_assert!(left > 0, "work never ends");
        }
        if !sim.gone {
            prop_assert_eq!(sim.answered.len(), sim.asked, "kept: {:?}", sim.kept);
        }
    }
}

fn facts(pod: PodFact, container: ContainerFact, jobs: &[Job]) -> Facts {
    Facts {
        pod,
        containers: [(id(1), container)].into(),
        jobs: jobs.iter().cloned().collect(),
        end_is_asked_for: false,
    }
}

#[test]
fn each_request_in_the_states_that_matter() {
    use ContainerFact as C;
    use PodFact as P;
    use Refusal as R;
    let (start, stop, reap) = (Job::Start(id(1)), Job::Stop(id(1)), Job::Reap(id(1)));
    let rows: Vec<(P, C, Vec<Job>, Ask, Verdict)> = vec![
        // A retry of Run joins, or finds it done; another request does not.
        (P::Creating, C::Created, vec![Job::Run], Ask::Run { same_request: true }, Verdict::Join(Job::Run)),
        (P::Ready, C::Created, vec![], Ask::Run { same_request: true }, Verdict::Done),
        (P::Ready, C::Created, vec![], Ask::Run { same_request: false }, Verdict::Refuse(R::OtherRequest)),
        (P::NotReady, C::Created, vec![], Ask::Run { same_request: true }, Verdict::Refuse(R::PastThat)),
        // Start is legal once.
        (P::Ready, C::Created, vec![], Ask::Start(id(1)), Verdict::Begin),
        (P::Ready, C::Starting, vec![start.clone()], Ask::Start(id(1)), Verdict::Join(start.clone())),
        (P::Ready, C::Running, vec![], Ask::Start(id(1)), Verdict::Refuse(R::ContainerState)),
        (P::NotReady, C::Created, vec![], Ask::Start(id(1)), Verdict::Refuse(R::PodState)),
        (P::Ready, C::Created, vec![], Ask::Start(id(2)), Verdict::Refuse(R::NoContainer)),
        // Stop of what does not run is success; of what is starting waits; twice joins.
        (P::Ready, C::Created, vec![], Ask::Stop(id(1)), Verdict::Done),
        (P::Ready, C::Exited, vec![], Ask::Stop(id(1)), Verdict::Done),
        (P::Ready, C::Starting, vec![start.clone()], Ask::Stop(id(1)), Verdict::Keep),
        (P::Ready, C::Running, vec![stop.clone()], Ask::Stop(id(1)), Verdict::Join(stop.clone())),
        // Remove of what runs kills it first, and cuts a stop's grace short.
        (P::Ready, C::Running, vec![], Ask::Remove(id(1)), Verdict::KillFirst),
        (P::Ready, C::Running, vec![stop.clone()], Ask::Remove(id(1)), Verdict::Hasten(vec![stop.clone()])),
        (
            P::Ready,
            C::Starting,
            vec![start.clone()],
            Ask::Remove(id(1)),
            Verdict::Hasten(vec![start.clone()]),
        ),
        (P::Ready, C::Starting, vec![start.clone()], Ask::StopPod, Verdict::Hasten(vec![start.clone()])),
        (P::Ready, C::Exited, vec![reap], Ask::Remove(id(1)), Verdict::Keep),
        (P::Ready, C::Exited, vec![], Ask::Remove(id(1)), Verdict::Begin),
        (P::Ready, C::Exited, vec![], Ask::Remove(id(2)), Verdict::Done),
        // The end of the pod.
        (P::Ready, C::Running, vec![stop.clone()], Ask::StopPod, Verdict::Hasten(vec![stop])),
        (P::Ready, C::Running, vec![], Ask::StopPod, Verdict::Begin),
        (P::NotReady, C::Exited, vec![], Ask::StopPod, Verdict::Done),
        (P::Stopping, C::Exited, vec![], Ask::StopPod, Verdict::Begin),
        (P::Stopping, C::Running, vec![Job::StopPod], Ask::RemovePod, Verdict::Keep),
        (
            P::Stopping,
            C::Running,
            vec![Job::StopPod],
            Ask::Create { taken: None },
            Verdict::Refuse(R::PodState),
        ),
        // Create again.
        (P::Ready, C::Created, vec![], Ask::Create { taken: Some((id(1), true)) }, Verdict::Done),
        (
            P::Ready,
            C::Exited,
            vec![],
            Ask::Create { taken: Some((id(1), true)) },
            Verdict::Refuse(R::PastThat),
        ),
        (
            P::Ready,
            C::Created,
            vec![],
            Ask::Create { taken: Some((id(1), false)) },
            Verdict::Refuse(R::OtherRequest),
        ),
    ];
    for (pod, container, jobs, ask, verdict) in rows {
        assert_eq!(
            decide(&facts(pod, container, &jobs), &ask),
            verdict,
            "{pod:?} {container:?} {jobs:?} {ask:?}"
        );
    }
}
