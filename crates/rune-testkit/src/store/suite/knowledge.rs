//! Entities and relations.

use rune_store_runtime::{
    MemoryScope, PageRequest, Properties, PutEntity, PutRelation, Reject, RelationFilter,
};
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::store::TestStore;

fn scope(agent: &str) -> MemoryScope {
    MemoryScope {
        namespace: "dev".to_owned(),
        agent: agent.to_owned(),
    }
}

fn properties(value: &Value) -> Properties {
    value.as_object().cloned().unwrap_or_default()
}

fn entity(name: &str, kind: &str, known: &Value) -> PutEntity {
    PutEntity {
        scope: scope("echo"),
        name: name.to_owned(),
        kind: kind.to_owned(),
        properties: properties(known),
    }
}

fn relation(from: &str, kind: &str, to: &str) -> PutRelation {
    PutRelation {
        scope: scope("echo"),
        from: from.to_owned(),
        kind: kind.to_owned(),
        to: to.to_owned(),
        properties: Properties::new(),
    }
}

async fn people(f: &Fixture) {
    for (name, kind, known) in [
        ("Ada", "person", json!({"born": 1815, "field": "computing"})),
        ("Grace", "person", json!({"note": "wrote \"compilers\""})),
        ("London", "city", json!({"in": ["England", "Europe"]})),
    ] {
        assert!(f.write(entity(name, kind, &known)).await);
    }
}

pub async fn what_is_known_of_an_entity_is_merged(test: TestStore) {
    let f = Fixture::new(test);
    people(&f).await;
    let first = f.store.entity(&scope("echo"), "Ada").await.unwrap();
    let more = json!({"born": null, "died": 1852});
    assert!(!f.write(entity("Ada", "countess", &more)).await);
    let row = f.store.entity(&scope("echo"), "Ada").await.unwrap();
    let (first, row) = (first.unwrap(), row.unwrap());
    assert_eq!(row.kind, "countess");
    assert_eq!(
        Value::Object(row.properties),
        json!({"field": "computing", "died": 1852})
    );
    assert_eq!(row.created_at, first.created_at);
    assert!(row.updated_at > first.updated_at);
    let other = f.store.entity(&scope("other"), "Ada").await.unwrap();
    assert_eq!(other, None);
    let list = async |kind: Option<&str>, page: PageRequest| {
        let page = f.store.entities(&scope("echo"), kind, &page).await.unwrap();
        let names = page.items.into_iter().map(|row| row.name);
        (names.collect::<Vec<_>>(), page.next)
    };
    let (names, next) = list(None, PageRequest::first(2)).await;
    assert_eq!(names, ["Ada", "Grace"]);
    let page = PageRequest {
        limit: 2,
        cursor: next,
    };
    assert_eq!(list(None, page).await, (vec!["London".to_owned()], None));
    let cities = list(Some("city"), PageRequest::default()).await;
    assert_eq!(cities.0, ["London"]);
    let big = json!({"text": "x".repeat(70_000)});
    let refused = f.rejected(entity("Ada", "person", &big)).await;
    assert!(matches!(refused, Reject::Invalid { .. }), "{refused:?}");
    let refused = f.rejected(entity("", "person", &json!({}))).await;
    assert!(matches!(refused, Reject::Invalid { .. }), "{refused:?}");
}

pub async fn entities_are_found_by_the_beginnings_of_words(test: TestStore) {
    let f = Fixture::new(test);
    people(&f).await;
    let foreign = PutEntity {
        scope: scope("other"),
        ..entity("Ada", "person", &json!({}))
    };
    f.write(foreign).await;
    let find = async |text: &str, kind: Option<&str>| {
        let scope = scope("echo");
        let rows = f.store.find_entities(&scope, text, kind, 10).await.unwrap();
        let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
        names.sort();
        names
    };
    assert_eq!(find("PERSON", None).await, ["Ada", "Grace"]);
    assert_eq!(find("person comp", None).await, ["Ada", "Grace"]);
    assert_eq!(find("compil", None).await, ["Grace"]);
    assert_eq!(find("1815 ada", None).await, ["Ada"]);
    assert_eq!(find("engl", Some("city")).await, ["London"]);
    let none: [&str; 0] = [];
    assert_eq!(find("engl", Some("person")).await, none);
    for nothing in ["", "\"", "ada london", "NEAR(", "* OR *", "da"] {
        assert_eq!(find(nothing, None).await, none, "{nothing}");
    }
    // What is not known any more is not found any more.
    let forgotten = json!({"field": null});
    f.write(entity("Ada", "person", &forgotten)).await;
    assert_eq!(find("computing", None).await, none);
    let scope = scope("echo");
    let some = f.store.find_entities(&scope, "person", None, 1).await;
    assert_eq!(some.unwrap().len(), 1);
}

pub async fn relations_are_found_from_either_end(test: TestStore) {
    let f = Fixture::new(test);
    people(&f).await;
    assert!(f.write(relation("Ada", "lived_in", "London")).await);
    assert!(f.write(relation("Grace", "visited", "London")).await);
    assert!(f.write(relation("Ada", "knows", "Ada")).await);
    let mut again = relation("Ada", "lived_in", "London");
    again.properties = properties(&json!({"until": 1852}));
    assert!(!f.write(again).await);
    let refused = f.rejected(relation("Ada", "knows", "Nobody")).await;
    assert!(matches!(refused, Reject::NotFound { .. }), "{refused:?}");
    let foreign = PutRelation {
        scope: scope("other"),
        ..relation("Ada", "knows", "Grace")
    };
    let refused = f.rejected(foreign).await;
    assert!(matches!(refused, Reject::NotFound { .. }), "{refused:?}");
    let find = async |filter: RelationFilter, page: PageRequest| {
        let scope = scope("echo");
        let page = f.store.relations(&scope, &filter, &page).await.unwrap();
        let shown = page.items.into_iter().map(|row| {
            let until = row.properties.get("until").cloned().unwrap_or_default();
            format!("{} {} {} {until}", row.from, row.kind, row.to)
        });
        (shown.collect::<Vec<_>>(), page.next)
    };
    let some = |name: &str| Some(name.to_owned());
    let at = |name: &str| RelationFilter {
        entity: some(name),
        ..RelationFilter::default()
    };
    let all = PageRequest::default;
    assert_eq!(
        find(at("London"), all()).await.0,
        ["Ada lived_in London 1852", "Grace visited London null"]
    );
    let (first, next) = find(at("Ada"), PageRequest::first(1)).await;
    assert_eq!(first, ["Ada knows Ada null"]);
    let page = PageRequest {
        limit: 1,
        cursor: next,
    };
    let (second, next) = find(at("Ada"), page).await;
    assert_eq!(
        (second, next),
        (vec!["Ada lived_in London 1852".to_owned()], None)
    );
    let exact = RelationFilter {
        from: some("Grace"),
        to: some("London"),
        kind: some("visited"),
        ..RelationFilter::default()
    };
    assert_eq!(find(exact, all()).await.0, ["Grace visited London null"]);
    let none = RelationFilter {
        from: some("London"),
        ..RelationFilter::default()
    };
    assert_eq!(find(none, all()).await.0.len(), 0);
}
