//! What outlives the agent.

use super::host::{Agent, User, ip, on_a_host, until};

fn steps(agent: &Agent) -> String {
    let metrics = agent.get("/metrics").unwrap();
    metrics.lines().find(|line| line.starts_with("stokehold_node_steps_total")).unwrap().to_owned()
}

fn comes_back_to_what_it_laid(user: User) {
    on_a_host(move || {
        let mut agent = Agent::start(user, &[]);
        assert_eq!(agent.report().lans[0].failure, None);
        let namespace = agent.namespace();
        agent.kill_the_last();
        // Nobody of ours is left but the holder; a router that starts now finds it.
        agent.add_member();
        agent.launch();
        assert_eq!((agent.namespace(), agent.report().lans[0].failure.clone()), (namespace, None));
        assert_eq!(steps(&agent), "stokehold_node_steps_total 0");
    });
}

#[test]
fn root_comes_back_to_what_it_laid() {
    comes_back_to_what_it_laid(User::Root);
}

#[test]
fn an_ordinary_user_comes_back_to_what_it_laid() {
    comes_back_to_what_it_laid(User::Ordinary);
}

#[test]
fn a_member_is_enough_when_the_holder_is_dead() {
    on_a_host(|| {
        let mut agent = Agent::start(User::Root, &[]);
        agent.add_member();
        let namespace = agent.namespace();
        agent.kill_the_holder();
        agent.kill_the_last();
        agent.launch();
        assert_eq!((agent.namespace(), steps(&agent).as_str()), (namespace, "stokehold_node_steps_total 0"));
    });
}

#[test]
fn without_anybody_a_new_namespace_is_made() {
    on_a_host(|| {
        let mut agent = Agent::start(User::Root, &[]);
        agent.kill_the_holder();
        agent.kill_the_last();
        agent.launch();
        assert_eq!(agent.report().lans[0].failure, None);
        assert_ne!(steps(&agent), "stokehold_node_steps_total 0");
    });
}

#[test]
fn what_is_changed_behind_its_back_is_put_right() {
    on_a_host(|| {
        let agent = Agent::start(User::Root, &[]);
        agent.inside(|| ip("link del lab0"));
        let is_back = "ip address show lab0 2>/dev/null | grep -q 10.10.0.1/24";
        let look = || std::process::Command::new("sh").args(["-c", is_back]).status().unwrap().success();
        until("the bridge is back", || agent.inside(look));
    });
}

#[test]
fn teardown_gives_the_hosts_interface_back() {
    on_a_host(|| {
        ip("link add nic0 type veth peer name far0");
        let agent = Agent::start(User::Root, &["nic0"]);
        assert_eq!(agent.report().lans[0].failure, None);
        assert!(!std::process::Command::new("ip").args(["link", "show", "nic0"]).status().unwrap().success());
        assert_eq!(agent.post("/teardown", "").as_deref(), Some("[]"));
        ip("link show nic0");
        let config = std::fs::read_to_string(agent.path("config.json")).unwrap();
        let plan = agent.post("/plan", &config).unwrap();
        assert!(plan.contains("take nic0 from the host for lan default/lab"), "{plan}");
    });
}

#[test]
fn teardown_without_an_agent_does_the_same() {
    on_a_host(|| {
        ip("link add nic0 type veth peer name far0");
        let mut agent = Agent::start(User::Root, &["nic0"]);
        agent.add_member();
        agent.kill_the_last();
        stoke_node::teardown(&agent.path(""), "0a1b2c3d").unwrap();
        ip("link show nic0");
        assert!(!agent.path("ns").exists() && std::fs::symlink_metadata(agent.path("ns")).is_err());
    });
}

#[test]
fn an_ordinary_user_may_not_take_the_hosts_interface() {
    on_a_host(|| {
        ip("link add nic0 type veth peer name far0");
        let agent = Agent::start(User::Ordinary, &["nic0"]);
        let failure = agent.report().lans[0].failure.clone().unwrap();
        assert!(failure.starts_with("only root can let the host's interface nic0 join"), "{failure}");
    });
}
