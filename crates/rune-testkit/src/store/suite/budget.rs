//! Shared budgets.

use std::collections::BTreeMap;
use std::time::Duration;

use rune_store_runtime::{
    AppendEntries, BudgetCap, BudgetClaim, BudgetFilter, BudgetRow, BudgetScope, CallPrice,
    DeleteSession, EntryBody, ModelCall, ModelReply, PageRequest, Reject, RequestId, ReserveBudget,
    SettleBudget, Settlement, StoreError, ToolModelCall, UsageFilter,
};
use serde_json::json;

use super::fixture::{self, Fixture, accept, finished, reply, session, usage};
use crate::store::TestStore;

/// A prompt token costs 1 and an output token 2 millionths of a dollar.
const PRICE: CallPrice = CallPrice {
    prompt: 1_000_000,
    output: 2_000_000,
};

fn money(scope: BudgetScope, micro_usd: u64) -> BudgetCap {
    BudgetCap {
        scope,
        tokens: None,
        micro_usd: Some(micro_usd),
    }
}

fn caller(name: &str) -> BudgetScope {
    BudgetScope::Caller(name.to_owned())
}

/// A call with a prompt of 100 tokens and an output of 200, which reserves 500.
fn call(request_id: RequestId, caps: &[BudgetCap]) -> ReserveBudget {
    ReserveBudget {
        request_id,
        stored: true,
        claims: caps
            .iter()
            .map(|cap| BudgetClaim {
                cap: cap.clone(),
                prompt_tokens: 100,
            })
            .collect(),
        prompt_tokens: 100,
        output_tokens: 200,
        enough_output_tokens: 200,
        min_output_tokens: 10,
        price: Some(PRICE),
    }
}

fn answered(input: u64, output: u64) -> EntryBody {
    let EntryBody::ModelReply(whole) = reply(Vec::new()) else {
        unreachable!("a reply is a reply");
    };
    EntryBody::ModelReply(ModelReply {
        usage: usage(input, output),
        cost_micro_usd: Some(input + 2 * output),
        ..whole
    })
}

impl Fixture {
    async fn accept_under(&self, session: &str, caps: &[BudgetCap]) -> RequestId {
        let mut accept = accept(session);
        accept.budgets = caps.to_vec();
        self.write(accept).await.request_id
    }

    async fn all_budgets(&self) -> Vec<BudgetRow> {
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let found = self.store.budgets(&BudgetFilter::default(), &page).await;
        found.unwrap().items
    }

    /// Spent and reserved money of a budget.
    async fn balance(&self, scope: &BudgetScope) -> Option<(u64, u64)> {
        let rows = self.all_budgets().await;
        let row = rows.into_iter().rfind(|row| row.scope == *scope)?;
        Some((row.spent_micro_usd, row.reserved_micro_usd))
    }
}

pub async fn a_reply_settles_what_its_call_reserved(test: TestStore) {
    let f = Fixture::new(test);
    let caps = [
        money(caller("a"), 1000),
        money(BudgetScope::Session(session("s")), 5000),
    ];
    let id = f.accept_under("s", &caps).await;
    assert_eq!(f.store.request(id).await.unwrap().unwrap().budgets, caps);
    assert_eq!(f.write(call(id, &caps)).await, 200);
    assert_eq!(f.balance(&caller("a")).await, Some((0, 500)));
    let held = f.store.reservation(id).await.unwrap().unwrap().held;
    assert_eq!(
        (held.len(), held[0].tokens, held[0].micro_usd),
        (2, 300, 500)
    );
    assert!(matches!(
        f.rejected(call(id, &caps)).await,
        Reject::Conflict { .. }
    ));

    f.append(id, vec![answered(90, 20)]).await;
    for cap in &caps {
        assert_eq!(f.balance(&cap.scope).await, Some((130, 0)));
    }
    assert_eq!(f.store.reservation(id).await.unwrap(), None);
    f.append(id, vec![answered(9, 2)]).await;
    let spent = f.balance(&caller("a")).await;
    assert_eq!(spent, Some((130, 0)), "nothing was reserved");
    f.append(id, vec![finished(json!("x"))]).await;
    assert!(matches!(
        f.rejected(call(id, &caps)).await,
        Reject::RequestEnded { .. }
    ));
}

pub async fn a_call_that_a_tool_makes_is_in_the_ledger_and_settles_what_it_reserved(
    test: TestStore,
) {
    let f = Fixture::new(test);
    let caps = [money(caller("a"), 2000)];
    let id = f.accept_under("s", &caps).await;
    f.append(id, vec![reply(vec![fixture::call("c")])]).await;
    f.write(call(id, &caps)).await;
    let before = f.store.request(id).await.unwrap().unwrap();
    let called = |counted| {
        EntryBody::ModelCalled(Box::new(ToolModelCall {
            step: 1,
            call_id: "c".to_owned(),
            call: ModelCall {
                provider: "openai".to_owned(),
                model: if counted { "painter" } else { "speaker" }.to_owned(),
                usage: if counted { usage(11, 70) } else { usage(0, 0) },
                cost_micro_usd: counted.then_some(40),
                duration_ms: 5,
            },
            counted,
        }))
    };
    f.append(id, vec![called(true)]).await;
    assert_eq!(f.balance(&caller("a")).await, Some((40, 0)));
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!(row.usage.total(), before.usage.total() + 81);
    assert_eq!(row.model_calls, before.model_calls + 1);
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let ledger = f.store.usage(&UsageFilter::default(), &page).await.unwrap();
    let line = ledger.items.iter().find(|line| line.model == "painter");
    assert_eq!(
        line.map(|line| (line.usage.output_tokens, line.cost_micro_usd)),
        Some((70, Some(40)))
    );
    // The result adds nothing, and of what was not counted all that was reserved is spent.
    let result = EntryBody::ToolResult(fixture::result("c"));
    f.append(id, vec![result]).await;
    f.write(call(id, &caps)).await;
    f.append(id, vec![called(false)]).await;
    assert_eq!(f.balance(&caller("a")).await, Some((540, 0)));
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!(row.cost.unpriced_calls, before.cost.unpriced_calls + 1);
}

pub async fn what_is_reserved_is_not_there_for_others(test: TestStore) {
    let f = Fixture::new(test);
    let caps = [money(caller("a"), 1000), money(caller("b"), 100_000)];
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(f.accept_under(&format!("s{n}"), &caps).await);
    }
    f.write(call(ids[0], &caps)).await;
    f.write(call(ids[1], &caps)).await;
    let Reject::BudgetExceeded(short) = f.rejected(call(ids[2], &caps)).await else {
        unreachable!("1000 are reserved");
    };
    assert_eq!(short.scope, caller("a"));
    assert_eq!((short.cap, short.spent, short.reserved), (1000, 0, 1000));
    assert_eq!((short.needed, short.held), (120, true));
    assert!(short.resets_at.is_some_and(|at| at > f.store.now()));
    // Both use 400; 200 are left, for a prompt of 100 and an output of 50.
    f.append(ids[0], vec![answered(100, 150)]).await;
    f.append(ids[1], vec![answered(100, 150)]).await;
    assert_eq!(f.write(call(ids[2], &caps)).await, 50);
    f.append(ids[2], vec![answered(100, 50)]).await;
    let Reject::BudgetExceeded(short) = f.rejected(call(ids[0], &caps)).await else {
        unreachable!("all is spent");
    };
    assert_eq!((short.spent, short.reserved, short.held), (1000, 0, false));
    assert_eq!(f.balance(&caller("b")).await, Some((1000, 0)));
}

pub async fn a_call_takes_less_output_where_that_is_enough(test: TestStore) {
    let f = Fixture::new(test);
    let caps = [money(caller("a"), 900)];
    let (first, second) = (
        f.accept_under("a", &caps).await,
        f.accept_under("b", &caps).await,
    );
    f.write(call(first, &caps)).await;
    f.rejected(call(second, &caps)).await;
    let mut patient = call(second, &caps);
    patient.enough_output_tokens = 150;
    assert_eq!(f.write(patient).await, 150);
    assert_eq!(f.balance(&caller("a")).await, Some((0, 900)));
}

pub async fn an_unknown_outcome_counts_as_all_that_was_reserved(test: TestStore) {
    let f = Fixture::new(test);
    let tree = RequestId::generate();
    let caps = [
        money(caller("a"), 10_000),
        money(BudgetScope::Request(tree), 10_000),
    ];
    let settle = |request_id, used, ends| SettleBudget {
        request_id,
        used,
        ends,
    };
    let id = f.accept_under("s", &caps).await;
    assert!(!f.write(settle(id, Settlement::Unknown, false)).await);
    f.write(call(id, &caps)).await;
    assert!(f.write(settle(id, Settlement::Unknown, false)).await);
    assert_eq!(f.balance(&caller("a")).await, Some((500, 0)));
    f.write(call(id, &caps)).await;
    assert!(f.write(settle(id, Settlement::Nothing, false)).await);
    f.write(call(id, &caps)).await;
    let used = Settlement::Used {
        tokens: 3,
        micro_usd: 5,
    };
    assert!(f.write(settle(id, used, false)).await);
    assert_eq!(f.balance(&caller("a")).await, Some((505, 0)));
    // The end settles what is left, and a budget is kept as long as others hold a part of it.
    f.write(call(id, &caps)).await;
    assert!(!f.write(settle(tree, Settlement::Unknown, true)).await);
    f.append(id, vec![finished(json!("x"))]).await;
    assert_eq!(f.balance(&caller("a")).await, Some((1005, 0)));
    assert_eq!(f.balance(&caps[1].scope).await, Some((1005, 0)));
    f.write(settle(tree, Settlement::Unknown, true)).await;
    assert_eq!(f.balance(&caps[1].scope).await, None);
}

pub async fn a_request_that_is_not_stored_can_reserve(test: TestStore) {
    let f = Fixture::new(test);
    let caps = [money(caller("a"), 10_000)];
    let id = RequestId::generate();
    assert!(matches!(
        f.rejected(call(id, &caps)).await,
        Reject::NotFound { .. }
    ));
    let mut reserve = call(id, &caps);
    reserve.stored = false;
    f.write(reserve).await;
    let page = PageRequest::default();
    let open = f.store.reservations(&page).await.unwrap().items;
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].request_id, id);
}

pub async fn a_budget_of_a_day_begins_anew(test: TestStore) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let f = Fixture::new(test);
    let caps = [
        money(BudgetScope::Deployment("dev/echo:stable".to_owned()), 600),
        money(BudgetScope::Session(session("s")), 100_000),
    ];
    let id = f.accept_under("s", &caps).await;
    f.write(call(id, &caps)).await;
    f.pass(DAY);
    // The reply of a call over midnight counts for the day on which it was made.
    f.append(id, vec![answered(100, 200)]).await;
    let rows = f.all_budgets().await;
    assert_eq!(rows[0].spent_micro_usd, 500);
    let current = BudgetFilter {
        current_at: Some(f.store.now()),
        ..BudgetFilter::default()
    };
    let page = PageRequest::first(1);
    let found = f.store.budgets(&current, &page).await.unwrap();
    assert_eq!(found.items[0].scope, caps[1].scope);
    assert_eq!(f.write(call(id, &caps)).await, 200);
    let rows = f.all_budgets().await;
    assert_eq!(rows.len(), 2, "the day before is gone: {rows:?}");
    assert_eq!(
        (rows[0].spent_micro_usd, rows[0].reserved_micro_usd),
        (0, 500)
    );
    assert_eq!(rows[1].spent_micro_usd, 500);
    let found = f.store.budgets(&current, &page).await.unwrap();
    assert!(found.next.is_some());
}

pub async fn a_deleted_session_takes_its_budget_along(test: TestStore) {
    let f = Fixture::new(test);
    let scope = BudgetScope::Session(session("s"));
    let caps = [money(scope.clone(), 10_000), money(caller("a"), 10_000)];
    let id = f.accept_under("s", &caps).await;
    f.write(call(id, &caps)).await;
    f.append(id, vec![answered(1, 1), finished(json!("x"))])
        .await;
    let below = f.accept_under("below", &caps).await;
    f.write(call(below, &caps)).await;
    let delete = DeleteSession {
        session_id: session("s"),
    };
    assert!(matches!(
        f.rejected(delete.clone()).await,
        Reject::Conflict { .. }
    ));
    f.append(below, vec![finished(json!("x"))]).await;
    f.write(delete).await;
    assert_eq!(f.balance(&scope).await, None);
    assert_eq!(f.balance(&caller("a")).await, Some((503, 0)));
}

pub async fn a_reservation_that_makes_no_sense_is_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let caps = [money(caller("a"), 10_000)];
    let id = f.accept_under("s", &caps).await;
    let mut unpriced = call(id, &caps);
    unpriced.price = None;
    let mut huge = call(id, &caps);
    huge.output_tokens = u64::MAX;
    let mut twice = call(id, &caps);
    twice.claims.extend(twice.claims.clone());
    let cap = call(id, &[money(caller("a"), u64::MAX)]);
    for broken in [unpriced, huge, twice, cap] {
        assert!(matches!(f.rejected(broken).await, Reject::Invalid { .. }));
    }
    assert!(f.all_budgets().await.is_empty());
}

/// xorshift64*, the same everywhere.
fn below(random: &mut u64, limit: u64) -> u64 {
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
}

/// Calls of twelve requests, in any order with replies, crashes, cancels and ends.
pub async fn no_interleaving_spends_more_than_the_cap(test: TestStore) {
    let f = Fixture::new(test);
    for seed in 1..=20 {
        interleave(&f, seed).await;
    }
}

async fn interleave(f: &Fixture, seed: u64) {
    let random = &mut seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let root = RequestId::generate();
    let mut accept = accept(&format!("root-{seed}"));
    accept.request_id = root;
    let shared = [
        money(caller(&format!("caller-{seed}")), 4000),
        money(BudgetScope::Request(root), 3000),
        BudgetCap {
            scope: BudgetScope::Deployment(format!("dev/{seed}:stable")),
            tokens: Some(2500),
            micro_usd: Some(5000),
        },
    ];
    accept.budgets = shared.to_vec();
    f.write(accept).await;
    let mut requests = Vec::new();
    for n in 0..12 {
        let session_id = format!("s-{seed}-{n}");
        let mut caps = shared.to_vec();
        caps.push(money(BudgetScope::Session(session(&session_id)), 1500));
        let id = f.accept_under(&session_id, &caps).await;
        // What the open call has reserved of money, where there is one.
        requests.push((id, caps, None::<u64>));
    }
    let mut spent: BTreeMap<BudgetScope, u64> = BTreeMap::new();
    while !requests.is_empty() {
        let at = usize::try_from(below(random, requests.len() as u64)).unwrap_or(0);
        let (id, caps, open) = &mut requests[at];
        let mut used = None;
        let mut ended = false;
        match (below(random, 10), *open) {
            (0, _) => {
                // Cancelled, or given up: the end settles what nobody knows.
                used = *open;
                f.append(*id, vec![finished(json!("x"))]).await;
                ended = true;
            }
            (1, Some(reserved)) => {
                // Taken up again after a crash, or a stream that broke off.
                used = Some(reserved);
                let settle = SettleBudget {
                    request_id: *id,
                    used: Settlement::Unknown,
                    ends: false,
                };
                assert!(f.write(settle).await);
                *open = None;
            }
            (2, Some(_)) => {
                let settle = SettleBudget {
                    request_id: *id,
                    used: Settlement::Nothing,
                    ends: false,
                };
                assert!(f.write(settle).await);
                *open = None;
            }
            (_, Some(reserved)) => {
                let output = below(random, (reserved - 100) / 2 + 1);
                used = Some(100 + 2 * output);
                let mut entries = vec![answered(100, output)];
                ended = below(random, 3) == 0;
                if ended {
                    entries.push(finished(json!("x")));
                }
                f.write(AppendEntries {
                    request_id: *id,
                    entries,
                })
                .await;
                *open = None;
            }
            (_, None) => {
                let mut reserve = call(*id, caps);
                reserve.enough_output_tokens = 10 + below(random, 190);
                match f.store.write(reserve).await {
                    Ok(output) => *open = Some(100 + 2 * output),
                    Err(StoreError::Rejected(Reject::BudgetExceeded(short))) => {
                        if !short.held {
                            f.append(*id, vec![finished(json!("x"))]).await;
                            ended = true;
                        }
                    }
                    Err(error) => unreachable!("{error}"),
                }
            }
        }
        for cap in caps.iter() {
            *spent.entry(cap.scope.clone()).or_default() += used.unwrap_or_default();
        }
        if ended {
            requests.remove(at);
        }
        check(f, &spent, &shared).await;
    }
    let finished = finished(json!("x"));
    f.append(root, vec![finished]).await;
    let left = f.all_budgets().await;
    assert!(left.iter().all(|row| row.reserved_micro_usd == 0));
    assert!(left.iter().all(|row| row.reserved_tokens == 0));
    assert!(left.iter().all(|row| row.scope != shared[1].scope));
    let page = PageRequest::default();
    assert!(f.store.reservations(&page).await.unwrap().items.is_empty());
}

async fn check(f: &Fixture, spent: &BTreeMap<BudgetScope, u64>, shared: &[BudgetCap]) {
    let rows = f.all_budgets().await;
    for row in &rows {
        let money = row.spent_micro_usd + row.reserved_micro_usd;
        let tokens = row.spent_tokens + row.reserved_tokens;
        assert!(row.cap_micro_usd.is_none_or(|cap| money <= cap), "{row:?}");
        assert!(row.cap_tokens.is_none_or(|cap| tokens <= cap), "{row:?}");
        if let Some(expected) = spent.get(&row.scope) {
            assert_eq!(row.spent_micro_usd, *expected, "{row:?}");
        }
    }
    for cap in shared {
        let known = rows.iter().any(|row| row.scope == cap.scope);
        let expected = spent.get(&cap.scope).copied().unwrap_or_default();
        assert!(known || expected == 0, "{cap:?}");
    }
}
