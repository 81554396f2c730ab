//! What the role counts is what its page in the documentation says.

use testbed::metrics::{documented, faults, page, scraped};

use crate::bed::Bed;

#[test]
fn metrics_are_documented_and_the_documented_are_there() {
    let bed = Bed::new();
    let (status, text) = bed.try_admin("GET", "/metrics").unwrap();
    assert_eq!(status, 200);
    let scraped = scraped(&text);
    let page = page(&scraped);
    assert_eq!(scraped, documented("stoke_farm_"), "the rows of docs/src/reference/metrics.md should be:\n{page}\n");
    assert_eq!(faults(&scraped), Vec::<&String>::new());
    assert!(text.ends_with("# EOF\n"));
}
