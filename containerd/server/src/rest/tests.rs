//! That the description describes what is there.

use serde_json::Value;

#[test]
fn the_description_is_json_with_each_path() {
    let description: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let routes = include_str!("routes.rs");
    for path in paths.keys() {
        assert!(routes.contains(&format!("{path:?}")), "{path} is no route");
    }
    assert_eq!(paths.len() + 1, routes.matches(".route(").count(), "with the description's own");
}
