//! Where every metric of the process is kept, and how Prometheus reads it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder,
    SetRecorderError, SharedString, Unit,
};

/// Upper bounds of a histogram of seconds.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// Upper bounds of a histogram of anything else, such as commands in a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The metrics of this process; a cheap handle.
///
/// A histogram has fixed buckets, so that recording is one addition, an idle process keeps
/// nothing to clean up, and several processes can be summed.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Registry>);

type Series<T> = RwLock<HashMap<Key, Arc<T>>>;

#[derive(Default)]
struct Registry {
    counters: Series<AtomicU64>,
    gauges: Series<AtomicU64>,
    histograms: Series<Buckets>,
}

/// How often each bucket was hit, and the sum of all values.
struct Buckets {
    bounds: &'static [f64],
    /// One more than there are bounds: what is above all of them.
    hits: Vec<AtomicU64>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl Metrics {
    /// Makes this the place where `counter!`, `gauge!` and `histogram!` of the whole process go.
    ///
    /// # Errors
    /// Where another one is already.
    pub fn install(&self) -> Result<(), SetRecorderError<Self>> {
        metrics::set_global_recorder(self.clone())
    }

    /// The text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        render(
            &mut text,
            "counter",
            &self.0.counters,
            |text, key, value| {
                line(
                    text,
                    key,
                    "",
                    None,
                    &value.load(Ordering::Relaxed).to_string(),
                );
            },
        );
        render(&mut text, "gauge", &self.0.gauges, |text, key, value| {
            let value = f64::from_bits(value.load(Ordering::Relaxed));
            line(text, key, "", None, &value.to_string());
        });
        render(&mut text, "histogram", &self.0.histograms, Buckets::render);
        text
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(series(&self.0.counters, key, AtomicU64::default))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(series(&self.0.gauges, key, AtomicU64::default))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let new = || {
            Buckets::new(if key.name().ends_with("_seconds") {
                SECONDS
            } else {
                COUNTS
            })
        };
        Histogram::from_arc(series(&self.0.histograms, key, new))
    }
}

/// The series of a key, made where it is new.
fn series<T>(all: &Series<T>, key: &Key, new: impl FnOnce() -> T) -> Arc<T> {
    let known = all
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(key)
        .cloned();
    known.unwrap_or_else(|| {
        let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key.clone()).or_insert_with(|| Arc::new(new())))
    })
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            hits: (0..=bounds.len()).map(|_| AtomicU64::default()).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    fn render(text: &mut String, key: &Key, buckets: &Arc<Self>) {
        let mut count = 0;
        let bounds = buckets.bounds.iter().map(ToString::to_string);
        for (bound, hits) in bounds.chain(["+Inf".to_owned()]).zip(&buckets.hits) {
            count += hits.load(Ordering::Relaxed);
            line(text, key, "_bucket", Some(&bound), &count.to_string());
        }
        let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
        line(text, key, "_sum", None, &sum.to_string());
        line(text, key, "_count", None, &count.to_string());
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(hits) = self.hits.get(index) {
            hits.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum| Some((f64::from_bits(sum) + value).to_bits());
        // Never fails: `add` always has an answer.
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// Every series of a kind, by name and labels, with the kind before the first of a name.
fn render<T>(
    text: &mut String,
    kind: &str,
    all: &Series<T>,
    mut one: impl FnMut(&mut String, &Key, &Arc<T>),
) {
    let all = all.read().unwrap_or_else(PoisonError::into_inner);
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let mut name = "";
    for (key, value) in sorted {
        if key.name() != name {
            name = key.name();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}");
        }
        one(text, key, value);
    }
}

/// `name_suffix{label="value",le="bound"} value`.
fn line(text: &mut String, key: &Key, suffix: &str, bound: Option<&str>, value: &str) {
    let labels = key
        .labels()
        .map(|label: &Label| (label.key(), label.value()));
    let labels: Vec<String> = labels
        .chain(bound.map(|bound| ("le", bound)))
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    let name = key.name();
    // Writing to a string cannot fail.
    let _ = if labels.is_empty() {
        writeln!(text, "{name}{suffix} {value}")
    } else {
        writeln!(text, "{name}{suffix}{{{}}} {value}", labels.join(","))
    };
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(work: impl FnOnce()) -> String {
        let metrics = Metrics::default();
        metrics::with_local_recorder(&metrics, work);
        metrics.render()
    }

    #[test]
    fn counts_by_name_and_labels_and_escapes_them() {
        let text = rendered(|| {
            metrics::counter!("b_total", "who" => "x\"\\\n").increment(2);
            metrics::counter!("b_total", "who" => "x\"\\\n").increment(1);
            metrics::counter!("b_total", "who" => "a").increment(1);
            metrics::counter!("a_total").increment(7);
            metrics::gauge!("depth").set(1.5);
        });
        let expected = "# TYPE a_total counter\na_total 7\n# TYPE b_total counter\n\
                        b_total{who=\"a\"} 1\nb_total{who=\"x\\\"\\\\\\n\"} 3\n\
                        # TYPE depth gauge\ndepth 1.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_value_is_in_every_bucket_from_its_bound_on() {
        let text = rendered(|| {
            for value in [1.0, 3.0, 1000.0] {
                metrics::histogram!("batch", "kind" => "k").record(value);
            }
        });
        for line in [
            "# TYPE batch histogram\n",
            "batch_bucket{kind=\"k\",le=\"1\"} 1\n",
            "batch_bucket{kind=\"k\",le=\"2\"} 1\n",
            "batch_bucket{kind=\"k\",le=\"4\"} 2\n",
            "batch_bucket{kind=\"k\",le=\"512\"} 2\n",
            "batch_bucket{kind=\"k\",le=\"+Inf\"} 3\n",
            "batch_sum{kind=\"k\"} 1004\n",
            "batch_count{kind=\"k\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn seconds_have_fine_buckets() {
        let text = rendered(|| metrics::histogram!("commit_seconds").record(0.000_2));
        assert!(
            text.contains("commit_seconds_bucket{le=\"0.0001\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("commit_seconds_bucket{le=\"0.00025\"} 1\n"),
            "{text}"
        );
    }
}
