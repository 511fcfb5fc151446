//! `enable_performance_monitoring` switches the latency recorders; counters stay.

use batchyard::{Engine, EngineConfig};

#[test]
fn latencies_are_recorded_unless_switched_off() {
    for on in [true, false] {
        let config = EngineConfig { enable_performance_monitoring: on, ..EngineConfig::open() };
        let engine = Engine::from_config(config).unwrap();
        let report = engine.batch("b").submit(0..200u32, |n, _| Ok(*n)).unwrap().wait().unwrap();
        assert_eq!(report.completed_items, 200);
        assert_eq!(report.run.is_some(), on);
        let stats = engine.stats();
        assert_eq!((stats.completed, stats.run.count), (200, if on { 200 } else { 0 }));
    }
}
