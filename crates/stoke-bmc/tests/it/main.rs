//! The clients against the simulators of OpenIPMI and of sushy-tools, and against a service that behaves badly.

#[cfg(test)]
mod ipmi;
#[cfg(test)]
mod redfish;
#[cfg(test)]
mod strange;
