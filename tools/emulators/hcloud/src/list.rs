//! Lists: filtering, sorting and paging.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::labels::Labels;
use crate::selector::Selector;

/// Answers with the page of `items` that the call asks for, under `key`. `filters` are the fields that a
/// client may filter by value, `sorts` the fields that a client may sort by.
pub(crate) fn page(
    call: &Call,
    key: &str,
    mut items: Vec<Value>,
    filters: &[&str],
    sorts: &[&str],
) -> Result<Answer, ApiError> {
    for field in filters {
        let wanted = call.values(field);
        items.retain(|item| wanted.is_empty() || wanted.contains(&text(&item[*field]).as_str()));
    }
    if let Some(selector) = call.values("label_selector").first() {
        let selector = Selector::parse(selector)?;
        items.retain(|item| selector.matches(&labels(item)));
    }
    let orders = orders(call, sorts)?;
    items.sort_by(|a, b| {
        let order = orders.iter().map(|(field, down)| {
            let order = compare(&a[field.as_str()], &b[field.as_str()]);
            if *down { order.reverse() } else { order }
        });
        order.fold(Ordering::Equal, Ordering::then)
    });
    let page = number(call, "page", 1, usize::MAX)?;
    let per_page = number(call, "per_page", 25, 50)?;
    let total = items.len();
    let last = total.div_ceil(per_page).max(1);
    let skipped = (page - 1).saturating_mul(per_page);
    let shown: Vec<_> = items.into_iter().skip(skipped).take(per_page).collect();
    let pagination = json!({
        "page": page,
        "per_page": per_page,
        "previous_page": (page > 1).then(|| page - 1),
        "next_page": (page < last).then(|| page + 1),
        "last_page": last,
        "total_entries": total,
    });
    Ok(Answer::ok(json!({key: shown, "meta": {"pagination": pagination}})))
}

fn orders(call: &Call, sorts: &[&str]) -> Result<Vec<(String, bool)>, ApiError> {
    let asked = call.values("sort");
    let order = |text: &str| {
        let (field, direction) = text.split_once(':').unwrap_or((text, "asc"));
        let down = match direction {
            "asc" => false,
            "desc" => true,
            _ => {
                return Err(ApiError::invalid_fields(&[(
                    "sort",
                    "the direction must be asc or desc",
                )]));
            }
        };
        if sorts.contains(&field) {
            Ok((field.to_owned(), down))
        } else {
            Err(ApiError::invalid_fields(&[("sort", "is not a field to sort by")]))
        }
    };
    asked.into_iter().map(order).collect()
}

fn number(call: &Call, name: &str, default: usize, most: usize) -> Result<usize, ApiError> {
    let values = call.values(name);
    let Some(text) = values.first() else { return Ok(default) };
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(ApiError::invalid_fields(&[(name, "is out of range")])),
    }
}

fn labels(item: &Value) -> Labels {
    let pairs = item["labels"].as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a.as_u64(), b.as_u64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => text(a).cmp(&text(b)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn pages_of_every_size_together_hold_every_item_once() {
        for total in 0..=60_usize {
            for per_page in 1..=50 {
                let mut seen = Vec::new();
                let mut next = Some(1);
                while let Some(page_number) = next {
                    let query = vec![
                        ("page".to_owned(), page_number.to_string()),
                        ("per_page".to_owned(), per_page.to_string()),
                    ];
                    let call = Call { method: "GET".into(), path: vec![], query, body: vec![] };
                    let items = (0..total).map(|id| json!({"id": id})).collect();
                    let body = page(&call, "things", items, &[], &["id"]).unwrap().body.unwrap();
                    seen.extend(
                        body["things"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|item| item["id"].as_u64().unwrap()),
                    );
                    let meta = &body["meta"]["pagination"];
                    assert_eq!(meta["total_entries"], total);
                    assert_eq!(meta["next_page"].is_null(), meta["last_page"] == meta["page"]);
                    next = meta["next_page"].as_u64();
                }
                assert_eq!(seen, (0..total as u64).collect::<Vec<_>>(), "{total} by {per_page}");
            }
        }
    }
}
