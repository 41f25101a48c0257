import Tuners

/// Figures as Prometheus reads them: in OpenMetrics, or in the older text format
/// for who does not ask for it. No label names a namespace, so that there are no
/// more series in ten thousand of them.
struct OpenMetrics {
  let contentType: String
  private(set) var text = ""
  private let isOpen: Bool

  private enum Kind: String {
    case counter, gauge, histogram
  }

  init(isOpen: Bool, _ figures: Figures) {
    self.isOpen = isOpen
    contentType =
      isOpen
      ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
      : "text/plain; version=0.0.4; charset=utf-8"
    add(figures)
    if isOpen { text += "# EOF\n" }
  }

  private mutating func add(_ figures: Figures) {
    family("bpftune_build_info", .gauge, "The version of bpftune that runs.")
    sample("bpftune_build_info", [("version", Bpftune.version), ("kernel", figures.kernel)], 1)
    family("bpftune_dry_run", .gauge, "1 when it only advises.")
    sample("bpftune_dry_run", [], figures.isDryRun ? 1 : 0)
    family("process_start_time_seconds", .gauge, "When it was started, in seconds since 1970.")
    sample("process_start_time_seconds", [], figures.start)
    family("process_cpu_seconds", .counter, "Processor time that it has used, in seconds.")
    sample("process_cpu_seconds_total", [], figures.cpuSeconds)
    family("process_resident_memory_bytes", .gauge, "Memory that is resident.")
    sample("process_resident_memory_bytes", [], figures.resident)
    family("bpftune_namespaces", .gauge, "Network namespaces that are watched.")
    sample("bpftune_namespaces", [], figures.namespaces)
    family("bpftune_signals", .gauge, "Signals by the hook that they got on this kernel.")
    for (state, count) in figures.signals { sample("bpftune_signals", [("hook", state)], count) }
    addTuners(figures)
    family("bpftune_events_lost", .counter, "Events that were lost, by where.")
    for (place, count) in figures.lost {
      sample("bpftune_events_lost_total", [("where", place)], count)
    }
    guard !figures.programs.isEmpty else { return }
    family("bpftune_bpf_runs", .counter, "How often a BPF program has run.")
    for program in figures.programs {
      sample("bpftune_bpf_runs_total", [("program", program.name)], program.calls)
    }
    family("bpftune_bpf_run_time_seconds", .counter, "For how long a BPF program has run.")
    for program in figures.programs {
      sample("bpftune_bpf_run_time_seconds_total", [("program", program.name)], program.seconds)
    }
  }

  private mutating func addTuners(_ figures: Figures) {
    let tuners = figures.tuners
    family("bpftune_events", .counter, "Events that the kernel has sent, by tuner.")
    for tuner in tuners { sample("bpftune_events_total", tuner.label, tuner.events) }
    family(
      "bpftune_events_folded", .counter, "Repeats that the kernel has folded into other events.")
    for tuner in tuners { sample("bpftune_events_folded_total", tuner.label, tuner.folded) }
    family("bpftune_changes", .counter, "Changes, by tunable.")
    for tuner in tuners {
      for (name, count) in tuner.changes.sorted(by: { $0.key < $1.key }) {
        sample("bpftune_changes_total", tuner.label + [("tunable", name)], count)
      }
    }
    family("bpftune_advice", .counter, "Advice that was not carried out, by tunable.")
    for tuner in tuners {
      for (name, count) in tuner.advice.sorted(by: { $0.key < $1.key }) {
        sample("bpftune_advice_total", tuner.label + [("tunable", name)], count)
      }
    }
    family("bpftune_refusals", .counter, "Adjustments that were refused, by reason.")
    for tuner in tuners {
      for (reason, count) in tuner.refusals.sorted(by: { $0.key < $1.key }) {
        sample("bpftune_refusals_total", tuner.label + [("reason", reason)], count)
      }
    }
    addEffects(tuners)
    family("bpftune_tunables", .gauge, "Tunables that a tuner can change.")
    for tuner in tuners { sample("bpftune_tunables", tuner.label, tuner.tunables) }
    family(
      "bpftune_values", .gauge, "Values in all namespaces by who has set them: us or administrators.")
    for tuner in tuners {
      sample("bpftune_values", tuner.label + [("owner", "bpftune")], tuner.held)
      sample("bpftune_values", tuner.label + [("owner", "administrator")], tuner.administrators)
    }
    family("bpftune_disabled_namespaces", .gauge, "Namespaces in which a tuner is disabled.")
    for tuner in tuners { sample("bpftune_disabled_namespaces", tuner.label, tuner.disabled) }
    family(
      "bpftune_write_latency_seconds", .histogram,
      "From an event in the kernel to its tunable written.")
    for tuner in tuners { histogram("bpftune_write_latency_seconds", tuner.label, tuner.latency) }
  }

  private mutating func addEffects(_ tuners: [Figures.OfTuner]) {
    family(
      "bpftune_experiments", .counter,
      "Changes whose effect was measured: kept, worse (taken back) or unclear.")
    for tuner in tuners {
      let effects = tuner.effects
      for (verdict, count) in [
        ("kept", effects.kept), ("worse", effects.takenBack), ("unclear", effects.unclear),
      ] {
        sample("bpftune_experiments_total", tuner.label + [("verdict", verdict)], count)
      }
    }
    family(
      "bpftune_rate_gain", .gauge,
      "Rate a while after a change by the rate before it, the median; also where held out.")
    for tuner in tuners {
      for (group, gains) in [("tuned", tuner.effects.tuned), ("held_out", tuner.effects.heldOut)] {
        guard let median = Effects.median(gains) else { continue }
        sample("bpftune_rate_gain", tuner.label + [("group", group)], median)
      }
    }
  }

  // MARK: Format

  private typealias Labels = [(name: String, value: String)]

  /// In the older format the name of a counter has its ending already here.
  private mutating func family(_ name: String, _ kind: Kind, _ help: String) {
    let name = kind == .counter && !isOpen ? name + "_total" : name
    text += "# TYPE \(name) \(kind.rawValue)\n"
    if isOpen, name.hasSuffix("_seconds") { text += "# UNIT \(name) seconds\n" }
    if isOpen, name.hasSuffix("_bytes") { text += "# UNIT \(name) bytes\n" }
    text += "# HELP \(name) \(help)\n"
  }

  private mutating func sample(_ name: String, _ labels: Labels, _ value: some BinaryInteger) {
    line(name, labels, "\(value)")
  }

  private mutating func sample(_ name: String, _ labels: Labels, _ value: Double) {
    line(name, labels, "\(value)")
  }

  private mutating func line(_ name: String, _ labels: Labels, _ value: String) {
    let pairs = labels.map { "\($0.name)=\"\(Self.escape($0.value))\"" }
    text += pairs.isEmpty ? "\(name) \(value)\n" : "\(name){\(pairs.joined(separator: ","))} \(value)\n"
  }

  private static func escape(_ text: String) -> String {
    text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
  }

  private mutating func histogram(
    _ name: String, _ labels: Labels, _ histogram: Counters.Histogram
  ) {
    var sum: UInt64 = 0
    for (limit, count) in zip(Counters.Histogram.limits, histogram.counts) {
      sum += count
      sample(name + "_bucket", labels + [("le", "\(Double(limit) / 1e6)")], sum)
    }
    let all = histogram.counts.reduce(0, +)
    sample(name + "_bucket", labels + [("le", "+Inf")], all)
    sample(name + "_sum", labels, Double(histogram.sum) / 1e9)
    sample(name + "_count", labels, all)
  }
}

/// What there is to measure, at one time.
struct Figures: Sendable {
  struct OfTuner: Sendable {
    var name = ""
    var events: UInt64 = 0
    var folded: UInt64 = 0
    var changes: [String: UInt64] = [:]
    var advice: [String: UInt64] = [:]
    var refusals: [String: UInt64] = [:]
    var latency = Counters.Histogram()
    var effects = Effects()
    var tunables = 0
    var held = 0
    var administrators = 0
    var disabled = 0

    fileprivate var label: [(name: String, value: String)] { [("tuner", name)] }
  }

  struct Program: Sendable {
    let name: String
    let calls: UInt64
    let seconds: Double
  }

  var kernel = ""
  var isDryRun = false
  /// Seconds since 1970.
  var start = 0.0
  var cpuSeconds = 0.0
  var resident: Int64 = 0
  var namespaces = 0
  var signals: [(state: String, count: Int)] = []
  var tuners: [OfTuner] = []
  var lost: [(place: String, count: UInt64)] = []
  /// None while the kernel does not count.
  var programs: [Program] = []
}
