public import Kernel
public import State

/// route-table: raises the number of IPv6 routes that a namespace may hold
/// before the kernel refuses more, together with the number from which they are
/// collected, where the kernel still has that limit.
///
/// Most routes that are held are copies, one a processor, and what was learned
/// about single destinations. Collection takes those that nobody uses, at most
/// every half second; so the limit is raised for routes that are still there
/// after it.
public struct RouteTable: Policy {
  public static let name = "route-table"

  public static let maximum = Tunable(
    "net.ipv6.route.max_size", .scalar, .perNamespace, bounds: 1...Int64(Int32.max))
  public static let threshold = Tunable(
    "net.ipv6.route.gc_thresh", .scalar, .perNamespace, bounds: 1...Int64(Int32.max))
  public static let tunables = [maximum, threshold]

  public static let signals = [
    Signal(
      "IPv6 route table filling",
      notNeeded: { RouteLimit.exists ? nil : "this kernel has no limit on IPv6 routes" },
      [
        Hook(
          .section(.tracepoint), "tp_btf/fib6_table_lookup", object: "route_table",
          program: "route_table_lookup")
      ])
  ]

  /// `enum route_table_scenario` in bpf/route_table.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case filling = 1
    case empty = 2

    var name: String {
      switch self {
      case .filling: "need to grow IPv6 route table"
      case .empty: "IPv6 route table larger than needed"
      }
    }
  }

  /// `enum route_table_value` in bpf/route_table.bpf.c: which number is which.
  enum Value: Int, CaseIterable { case entries, maximum, threshold }

  public static let mirrors: [String: [String: Int64]] = [
    "route_table_scenario": [
      "ROUTE_TABLE_FILLING": Scenario.filling.rawValue,
      "ROUTE_TABLE_EMPTY": Scenario.empty.rawValue,
    ],
    "route_table_value": [
      "ROUTE_TABLE_ENTRIES": 0, "ROUTE_TABLE_MAX_SIZE": 1, "ROUTE_TABLE_GC_THRESH": 2,
    ],
  ]

  /// How a table stands.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    /// Routes held.
    public var entries: Int64
    /// `max_size` and `gc_thresh`.
    public var maximum: Int64
    public var threshold: Int64
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, entries: value(.entries), maximum: value(.maximum),
      threshold: value(.threshold), freeMemory: freeMemory, time: event.time)
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// For how long a table must stay full: collection has had its turn twice.
    public var full: Duration
    /// For how long it must have been small before it shrinks.
    public var quiet: Duration

    public init(full: Duration = .seconds(1), quiet: Duration = .seconds(300)) {
      self.full = full
      self.quiet = quiet
    }
  }

  let learningRate: LearningRate
  let times: Times
  /// Before the first change: it does not shrink below that.
  var original: (maximum: Int64, threshold: Int64)?
  var isRaised = false
  /// Since when it has been filling, or small, without the other between.
  var fullSince: UInt64?
  var smallSince: UInt64?

  /// No namespace gets more: a container chooses what it looks up.
  static let most: Int64 = 65_536
  /// Bytes of kernel memory a route.
  static let entrySize: Int64 = 512

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    let known = 1..<Int64(Int32.max)
    guard known.contains(seen.maximum), known.contains(seen.threshold) else {
      return .leave("there is no limit")
    }
    if !isRaised { original = (seen.maximum, seen.threshold) }
    // Not among what an earlier daemon raised.
    if original?.threshold == 0 { original?.threshold = seen.threshold }
    switch seen.scenario {
    case .filling: return grow(seen)
    case .empty: return shrink(seen)
    }
  }

  private mutating func grow(_ seen: Observation) -> Decision {
    smallSince = nil
    let since = fullSince ?? seen.time
    fullSince = since
    guard seen.time &- since >= times.full.nanoseconds else {
      return .leave("\(seen.entries) routes of \(seen.maximum): collection may take some")
    }
    let ceiling = min(Self.most, seen.freeMemory / 64 / Self.entrySize)
    let wanted = min(Int64(Double(seen.maximum) * learningRate.growth(most: 4)), ceiling)
    guard wanted > seen.maximum else {
      return .hold(
        "the IPv6 route table holds \(seen.entries) of \(seen.maximum) routes and is not grown:"
          + " \(ceiling) are as many as it may hold", about: "ceiling")
    }
    fullSince = nil
    return change(
      seen, to: wanted,
      "the table holds \(seen.entries) routes of \(seen.maximum) at most, also after collection")
  }

  private mutating func shrink(_ seen: Observation) -> Decision {
    fullSince = nil
    guard isRaised, let original else { return .leave("it was not raised") }
    let since = smallSince ?? seen.time
    smallSince = since
    let quiet = seen.time &- since
    guard quiet >= times.quiet.nanoseconds else {
      return .leave("small for \(quiet / 1_000_000_000) s")
    }
    let wanted = max(original.maximum, seen.entries * 4)
    guard wanted < seen.maximum else { return .leave("as small as it may be") }
    return change(
      seen, to: wanted,
      "the table has held \(seen.entries) routes or so for \(quiet / 1_000_000_000) s")
  }

  /// Both, in the kernel's own proportion; the threshold is no reason to fail.
  private func change(_ seen: Observation, to maximum: Int64, _ reason: String) -> Decision {
    let smallest = original?.threshold ?? 1
    let threshold = maximum == original?.maximum ? smallest : max(smallest, maximum / 4)
    var adjustments = [
      Adjustment(
        Self.maximum, from: seen.maximum, to: maximum, scenario: seen.scenario.name,
        reason: reason)
    ]
    if threshold != seen.threshold {
      adjustments.append(
        Adjustment(
          Self.threshold, from: seen.threshold, to: threshold, scenario: seen.scenario.name,
          reason: reason))
    }
    return .adjust(adjustments)
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let number = holding.original.maximum else { return }
    original = original ?? (0, 0)
    if holding.tunable == Self.threshold { original?.threshold = number }
    if holding.tunable == Self.maximum {
      original?.maximum = number
      isRaised = true
    }
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard adjustment.tunable == Self.maximum, case .applied = outcome else { return }
    isRaised = adjustment.wanted.number != original?.maximum
    smallSince = nil
  }
}
