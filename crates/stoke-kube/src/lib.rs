//! Workloads to Kubernetes; the store over the API server; the operator.

pub mod agents;
pub mod apply;
pub mod certificates;
pub mod claims;
pub mod client;
pub mod crd;
pub mod drain;
pub mod join;
pub mod leader;
pub mod leading;
pub mod metrics;
pub mod nodes;
pub mod object;
pub mod observe;
pub mod offers;
pub mod operator;
pub mod plan;
pub mod render;
pub mod secrets;
pub mod services;
pub mod settings;
pub mod store;
pub mod tell;
pub mod watched;
pub mod webhook;

mod bmc;
mod keeping;
mod leases;
mod ssh;
