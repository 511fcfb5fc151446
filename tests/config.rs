//! `EngineConfig`: the Python service's names and numbers, and an error that names the field for whatever cannot be.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::{Engine, EngineConfig, Error, Rate, ResourceKind, Retry, Workers, millis, secs};

#[track_caller]
fn refused(field: &str, change: impl FnOnce(&mut EngineConfig)) -> String {
    let mut config = EngineConfig::default();
    change(&mut config);
    let wrong = config.validate().expect_err(field);
    assert_eq!(wrong.field, field, "{wrong}");
    wrong.problem
}

#[test]
fn the_defaults_are_the_python_services() {
    let config = EngineConfig::default();
    assert_eq!(config.max_concurrent_batches, 5);
    assert_eq!(config.max_concurrent_items_per_batch, 10);
    assert_eq!(config.max_total_concurrent_items, 50);
    assert_eq!(config.max_workers_per_batch, 3);
    assert_eq!(config.max_api_calls_per_second, 2.0);
    assert_eq!(config.max_database_connections, 10);
    assert_eq!(config.worker_timeout_seconds, 300);
    assert_eq!(config.batch_timeout_seconds, 3600);
    assert!(config.enable_rate_limiting && config.enable_resource_throttling);
    assert!(config.enable_deadlock_detection && config.enable_performance_monitoring);
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(EngineConfig::open().validate(), Ok(()));
}

#[test]
fn a_zero_names_its_field() {
    refused("max_concurrent_batches", |c| c.max_concurrent_batches = 0);
    refused("max_concurrent_items_per_batch", |c| c.max_concurrent_items_per_batch = 0);
    refused("max_total_concurrent_items", |c| c.max_total_concurrent_items = 0);
    refused("max_workers_per_batch", |c| c.max_workers_per_batch = 0);
    refused("max_api_calls_per_second", |c| c.max_api_calls_per_second = 0.0);
    refused("max_database_connections", |c| c.max_database_connections = 0);
    refused("worker_timeout_seconds", |c| c.worker_timeout_seconds = 0);
    refused("batch_timeout_seconds", |c| c.batch_timeout_seconds = 0);
    refused("reclaim_after_seconds", |c| c.reclaim_after_seconds = 0);
    refused("workers", |c| c.workers = 0.into());
    refused("workers", |c| c.workers = (-4).into());
    refused("result_window", |c| c.result_window = 0);
    refused("max_abandoned", |c| c.max_abandoned = 0);
    refused("grace_seconds", |c| c.grace_seconds = 0.0);
    refused("quotas.gpu", |c| c.quotas.extend([("gpu".into(), 0)]));
    refused("retry.attempts", |c| c.retry = Retry::fixed(secs(1)).attempts(0));
}

#[test]
fn what_is_no_number_names_its_field() {
    for wrong in [f64::NAN, -1.0, f64::NEG_INFINITY, -0.0] {
        refused("max_api_calls_per_second", |c| c.max_api_calls_per_second = wrong);
        refused("grace_seconds", |c| c.grace_seconds = wrong);
    }
    refused("grace_seconds", |c| c.grace_seconds = f64::INFINITY);
    for wrong in [f64::MIN_POSITIVE, f64::MAX] {
        refused("max_api_calls_per_second", |c| c.max_api_calls_per_second = wrong);
    }
    for wrong in ["", "10", "/s", "0/s", "-1/s", "NaN/s", "inf/s", "ten/s", "1/parsec", "1/s,burst=0"] {
        let problem = refused("rates.x", |c| c.rates.extend([("x".into(), wrong.into())]));
        assert!(problem.contains("10/s,burst=20"), "{problem}");
    }
    refused("rates", |c| c.rates.extend([(String::new(), "1/s".into())]));
}

#[test]
fn what_is_too_much_names_its_field() {
    refused("workers", |c| (c.max_total_concurrent_items, c.workers) = (usize::MAX, 1025.into()));
    refused("workers", |c| (c.max_total_concurrent_items, c.workers) = (usize::MAX, usize::MAX.into()));
    refused("grace_seconds", |c| c.grace_seconds = 1e30);
    let endless = Engine::builder().workers(1).grace(std::time::Duration::MAX).open();
    assert!(matches!(endless, Err(Error::Invalid(wrong)) if wrong.field == "grace_seconds"));
    let endless = Engine::builder().rate("mail", Rate::per(1, std::time::Duration::MAX)).open();
    assert!(matches!(endless, Err(Error::Invalid(wrong)) if wrong.field == "rates.mail"));
}

#[test]
fn a_contradiction_names_its_field_and_the_other() {
    let problem = refused("max_concurrent_items_per_batch", |c| c.max_concurrent_items_per_batch = 51);
    assert_eq!(
        problem,
        "51 is more than max_total_concurrent_items (50) ever lets happen: lower it or raise max_total_concurrent_items"
    );
    refused("max_workers_per_batch", |c| c.max_workers_per_batch = 11);
    refused("workers", |c| c.workers = Workers::fixed(51));
    refused("worker_timeout_seconds", |c| c.batch_timeout_seconds = 299);
    refused("max_concurrent_batches", |c| c.max_concurrent_batches = 61);
    refused("quotas.database_connection", |c| {
        c.max_database_connections = 4;
        c.quotas.insert(ResourceKind::DatabaseConnection, 5);
    });
    let problem = refused("quotas.DatabaseConnection", |c| {
        c.quotas.insert(ResourceKind::Custom("DatabaseConnection".into()), 5);
    });
    assert_eq!(problem, "a kind of that name is there: use ResourceKind::DatabaseConnection");
    refused("rates.api", |c| {
        c.max_api_calls_per_second = 4.0;
        c.rates.insert("api".into(), "5/s".into());
    });
}

#[test]
fn what_only_looks_like_a_contradiction_passes() {
    let mut config = EngineConfig { workers: Workers::fixed(1), ..EngineConfig::default() };
    config.max_total_concurrent_items = usize::MAX;
    config.worker_timeout_seconds = u64::MAX;
    config.quotas.insert(ResourceKind::DatabaseConnection, 5);
    config.rates.insert("api".into(), "5/s,burst=2".into());
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.in_flight(), 64);
}

#[test]
fn it_reads_back_what_it_writes() {
    let mut config = EngineConfig::open();
    config.workers = Workers::fixed(4);
    config.retry = Retry::exponential(millis(200)..secs(30)).attempts(5).budget(0.1);
    config.quotas.insert("gpu".into(), 2);
    config.journal = Some("work.db".into());
    config.seed = Some(7);
    let json = serde_json::to_string(&config).unwrap();
    assert!(json.contains(r#""max_total_concurrent_items":"none""#), "{json}");
    assert!(json.contains(r#""max_api_calls_per_second":"none""#), "{json}");
    assert_eq!(serde_json::from_str::<EngineConfig>(&json).unwrap(), config);
}

#[cfg(feature = "config")]
mod toml {
    use super::*;

    #[track_caller]
    fn refused(text: &str, field: &str) -> String {
        let wrong = EngineConfig::from_toml(text).expect_err(text);
        assert_eq!(wrong.field, field, "{wrong}");
        wrong.problem
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(EngineConfig::from_toml(""), Ok(EngineConfig::default()));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let problem = refused("max_concurrent_batches = 5\nmax_batches = 3\n", "max_batches");
        assert!(problem.contains("line 2") && problem.contains("`max_concurrent_batches`"), "{problem}");
        refused("retry = { tries = 3 }", "retry");
        assert!(refused("[retry]\ntries = 3", "tries").contains("`attempts`"));
    }

    #[test]
    fn a_wrong_value_is_named() {
        refused("workers = \"many\"", "workers");
        refused("workers = -1", "workers");
        refused("max_total_concurrent_items = -1", "max_total_concurrent_items");
        refused("\n\nmax_total_concurrent_items = 1.5", "max_total_concurrent_items");
        refused("batch_timeout_seconds = \"forever\"", "batch_timeout_seconds");
        refused("max_api_calls_per_second = nan", "max_api_calls_per_second");
        refused("enable_rate_limiting = 1", "enable_rate_limiting");
        refused("[quotas]\n\"a b\" = 3", "\"a b\"");
        refused("[quotas]\ngpu = 0", "quotas.gpu");
        refused("[rates]\nx = \"fast\"", "rates.x");
        refused("max_workers_per_batch = 0", "max_workers_per_batch");
        assert!(refused("workers = ", "workers").contains("line 1"));
        refused("é = \"", "é");
    }

    /// A quota under another name would leave the connections without one.
    #[test]
    fn a_known_kind_is_known_in_every_spelling() {
        for name in ["DatabaseConnection", "database-connection", "DATABASE_CONNECTION", "databaseConnection"]
        {
            let config = EngineConfig::from_toml(&format!("[quotas]\n{name} = 4")).unwrap();
            assert_eq!(
                config.quotas.into_iter().collect::<Vec<_>>(),
                [(ResourceKind::DatabaseConnection, 4)]
            );

            let engine = Engine::from_toml(&format!("[quotas]\n{name} = 4")).unwrap();
            assert_eq!(engine.in_use(&ResourceKind::DatabaseConnection), Some((0, 4)));

            let problem = refused(
                &format!("max_database_connections = 5\n[quotas]\n{name} = 4"),
                "quotas.database_connection",
            );
            assert_eq!(problem, "4, but max_database_connections is 5: give one");
        }
        // A name of one's own is what it is.
        let config = EngineConfig::from_toml("[quotas]\nGpu = 1\ngpu = 2").unwrap();
        assert_eq!(config.quotas.len(), 2);
    }

    #[test]
    fn a_kind_given_in_two_spellings_is_refused() {
        let problem = refused("[quotas]\nFileHandle = 4\ngpu = 1\nfile_handle = 4", "file_handle");
        assert_eq!(problem, "`file_handle` and `FileHandle` are the same resource: give one (line 4)");
        refused("quotas = { file-handle = 4, FileHandle = 5 }", "quotas");
        let json = r#"{"quotas":{"api_request":1,"ApiRequest":2}}"#;
        let wrong = serde_json::from_str::<EngineConfig>(json).unwrap_err().to_string();
        assert!(wrong.contains("`ApiRequest` and `api_request` are"), "{wrong}");
    }

    #[test]
    fn numbers_and_none_are_read() {
        let config = EngineConfig::from_toml(
            "max_api_calls_per_second = 3\nbatch_timeout_seconds = \"none\"\ngrace_seconds = 0.5\nworkers = 2\n\
             [quotas]\nfile_handle = 9\n[rates]\nx = \"10/s,burst=20\"\n[retry]\nbase = \"1s\"\ncap = \"1m\"\nattempts = 4",
        )
        .unwrap();
        assert_eq!(config.max_api_calls_per_second, 3.0);
        assert_eq!(config.batch_timeout_seconds, u64::MAX);
        assert_eq!(config.grace_seconds, 0.5);
        assert_eq!(config.workers, Workers::fixed(2));
        assert_eq!(config.quotas[&ResourceKind::FileHandle], 9);
        assert_eq!(config.retry, Retry::exponential(secs(1)..secs(60)).attempts(4));
    }
}
