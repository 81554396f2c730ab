//! Carrying out steps, through the one trait at the machine's edge.

use crate::label::Installation;
use crate::observed::Observed;
use crate::step::Step;

/// The kernel's network, or a fake of it.
pub trait Links {
    /// What the edge reports when a step fails.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What is there.
    ///
    /// # Errors
    /// If it cannot be read.
    fn observe(&mut self, installation: &Installation) -> Result<Observed, Self::Error>;

    /// Carries out one step.
    ///
    /// # Errors
    /// With the edge's own reason; the step has then changed nothing, or what planning again finds.
    fn execute(&mut self, step: &Step) -> Result<(), Self::Error>;
}

/// A step that failed. Steps before it are done, steps after it were not tried.
#[derive(Debug, thiserror::Error)]
#[error("could not {step}")]
pub struct ApplyError<E: std::error::Error + 'static> {
    /// The step.
    pub step: Box<Step>,
    /// Its reason.
    pub source: E,
}

/// Carries out the steps in order.
///
/// # Errors
/// At the first step that fails. Planning again from what is then observed gives the rest.
pub fn apply<L: Links>(links: &mut L, steps: &[Step]) -> Result<(), ApplyError<L::Error>> {
    let failed = |step: &Step, source| ApplyError { step: Box::new(step.clone()), source };
    steps.iter().try_for_each(|step| links.execute(step).map_err(|source| failed(step, source)))
}

/// Carries out each step, going on past those that fail: for teardown.
///
/// # Errors
/// All that failed.
pub fn apply_all<L: Links>(links: &mut L, steps: &[Step]) -> Result<(), Vec<ApplyError<L::Error>>> {
    let failed = |step: &Step, source| ApplyError { step: Box::new(step.clone()), source };
    let attempt = |step| links.execute(step).err().map(|source| failed(step, source));
    let errors: Vec<_> = steps.iter().filter_map(attempt).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
