//! `plan`: what may fail, and what would follow from a change. From a file alone, or as the cluster stands now.

mod live;
mod text;

pub use text::minutes;

use std::time::Duration;

use backstay_planner::contingency::Thing;
use backstay_planner::plan::{Measured, Plan, Remedy, plan, remedies};
use backstay_planner::what_if::{Missing, WhatIf};
use backstay_planner::{Deadlock, Move, Placement, Places, Standing, Topology, moves};
use backstay_spec::{Spec, edit};
use serde_json::{Value, json};

use crate::cli::PlanArgs;
use crate::clock;
use crate::config_file::ConfigFile;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Answers what was asked.
pub fn run(args: &PlanArgs, output: Output) -> Answer {
    let began = clock::boottime();
    let questions =
        args.what_if.iter().map(|text| text.parse::<WhatIf>().map_err(|why| Failure::usage("what-if", why)));
    let questions: Vec<WhatIf> = questions.collect::<Result<_, _>>()?;
    let mut scene = if args.live { live::scene(args)? } else { from_file(args)? };
    let mut lost: Vec<&Thing> = Vec::new();
    for question in &questions {
        match question {
            WhatIf::Lost(thing) => lost.push(thing),
            WhatIf::Change(change) => {
                let text = edit(&scene.text, change).map_err(|why| Failure::usage("what-if", why.to_string()))?;
                scene.change(text)?;
            }
        }
    }
    let losses = Missing::of(&scene.spec, lost).map_err(|why| Failure::usage("what-if", why))?;
    let (standing, placement) = scene.standing(&losses);
    let plan = plan(&scene.spec, &standing, &placement, &scene.measured);
    // A change is advice for the file; while something is lost, mending it is the advice.
    let is_whole = losses == Missing::default() && standing.down.is_empty() && plan.now.is_empty();
    let advice = if is_whole && !plan.goal_met { remedies(&scene.text, &scene.spec) } else { Vec::new() };
    let told = Told { plan, advice, moves: scene.moves(&placement), took: clock::boottime().saturating_sub(began) };
    output.result(&text::text(&told, &scene, args), answer(&told, &scene, args));
    let plan = told.plan;
    Ok(if plan.goal_met { Exit::Done } else { Exit::GoalNotMet })
}

/// Everything there is to tell.
struct Told {
    plan: Plan,
    advice: Vec<Remedy>,
    /// What the cluster would do next, in order; or the moves that wait for each other in a circle.
    moves: Result<Vec<Move>, Deadlock>,
    took: Duration,
}

/// A file, and how the cluster stands if that is known.
struct Scene {
    name: String,
    text: String,
    spec: Spec,
    /// How it stands now; none from the file alone.
    now: Option<Standing>,
    /// Where the instances of a running cluster are.
    places: Option<Places>,
    measured: Measured,
    /// How old what is known of it is.
    age: Duration,
}

fn from_file(args: &PlanArgs) -> Result<Scene, Failure> {
    let file = ConfigFile::read(args.file.named())?;
    let spec = file.spec()?.clone();
    Ok(Scene {
        name: file.name,
        text: file.text,
        spec,
        now: None,
        places: None,
        measured: Measured::default(),
        age: Duration::ZERO,
    })
}

impl Scene {
    /// The same cluster with another file: planned anew, since nobody knows how it would stand.
    fn change(&mut self, text: String) -> Result<(), Failure> {
        let parsed = backstay_spec::parse("the changed file", &text);
        let Some(spec) = parsed.spec else {
            let shown = backstay_spec::render("the changed file", &text, &parsed.diagnostics);
            let mut failure = Failure::usage("what-if", format!("the file can't say that\n{}", shown.trim_end()));
            let errors = parsed.diagnostics.iter().filter(|d| d.severity == backstay_spec::Severity::Error);
            failure.fields.insert("errors".to_owned(), json!(errors.collect::<Vec<_>>()));
            return Err(failure);
        };
        (self.text, self.spec, self.now) = (text, spec, None);
        Ok(())
    }

    /// How a running cluster would come to a placement.
    fn moves(&self, target: &Placement) -> Result<Vec<Move>, Deadlock> {
        match &self.places {
            Some(places) => moves(&Topology::of(&self.spec), &self.spec.services, places, &target.nodes),
            None => Ok(Vec::new()),
        }
    }

    /// Where everything stands once what is lost has been taken over.
    fn standing(&self, losses: &Missing) -> (Standing, Placement) {
        match &self.now {
            Some(now) if losses.nodes.is_empty() => {
                let (_, placement) = Standing::planned(&self.spec, &now.down);
                (now.clone().without(&losses.nodes, &losses.instances), placement)
            }
            now => {
                let down = now.iter().flat_map(|now| &now.down).chain(&losses.nodes).cloned().collect();
                let (standing, placement) = Standing::planned(&self.spec, &down);
                (standing.without(&losses.nodes, &losses.instances), placement)
            }
        }
    }
}

fn answer(told: &Told, scene: &Scene, args: &PlanArgs) -> Value {
    let step = |step: &Move| json!({ "service": step.service, "from": step.from, "to": step.to });
    let mut answer = json!(told.plan);
    answer["fixes"] = json!(told.advice);
    answer["live"] = json!(scene.places.is_some());
    answer["what_if"] = json!(args.what_if);
    answer["moves"] = json!(told.moves.iter().flatten().map(step).collect::<Vec<_>>());
    answer["moves_blocked"] = json!(told.moves.is_err());
    answer["age_ms"] = json!(scene.age.as_millis() as u64);
    answer["took_ms"] = json!(told.took.as_millis() as u64);
    answer
}
