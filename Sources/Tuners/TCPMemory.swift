public import Kernel
public import State

/// tcp-memory: keeps TCP away from the limits of its memory.
///
/// The account is one for the machine, so one state stands for it. Near the
/// point of pressure `tcp_mem` goes up. Where that does not end it at once,
/// relief (TCPMemoryRelief.swift) comes for as long as pressure is near: nothing
/// remembered of connections that suffer and, near the end, smaller buffers in
/// the namespaces that hold the most.
public struct TCPMemory: Policy {
  public static let name = "tcp-memory"
  public static let scope = Tunable.Scope.global

  /// Pages; above the first the kernel begins to save, above the second it calls
  /// it pressure, at the third it refuses memory (`__sk_mem_raise_allocated` in
  /// net/core/sock.c).
  public static let limits = Tunable(
    "net.ipv4.tcp_mem", .triple, .global, bounds: 1...Int64(Int32.max))
  /// Connections that no process holds any more, above which they are reset.
  public static let mostOrphans = Tunable(
    "net.ipv4.tcp_max_orphans", .scalar, .global, bounds: 0...Int64(Int32.max))
  public static let noMetrics = Tunable(
    "net.ipv4.tcp_no_metrics_save", .scalar, .perNamespace, bounds: 0...1)
  public static let noThreshold = Tunable(
    "net.ipv4.tcp_no_ssthresh_metrics_save", .scalar, .perNamespace, bounds: 0...1)
  public static let onlySinglePages = Tunable(
    "net.core.high_order_alloc_disable", .scalar, .global, bounds: 0...1)

  public static let tunables = [
    limits, mostOrphans, noMetrics, noThreshold, onlySinglePages, TCPBuffer.sendMaximum,
    TCPBuffer.receiveMaximum,
  ]

  public static let signals = [
    Signal(
      "TCP memory filling",
      [
        Hook(
          .section(.tracepoint), "tp_btf/tcp_probe", object: "tcp_memory",
          program: "tcp_memory_probe"),
        Hook(
          .iterator(every: .seconds(1)), "iter/tcp every second", object: "tcp_memory",
          program: "tcp_memory_poll"),
      ]),
    Signal(
      "TCP memory refused",
      [
        Hook(
          .section(.tracepoint), "tp_btf/sock_exceed_buf_limit", object: "tcp_memory",
          program: "tcp_memory_exceeded")
      ]),
    Signal(
      "TCP connection reset for want of memory",
      [
        Hook(
          .section(.tracepoint), "raw_tp/tcp_send_reset", object: "tcp_memory",
          program: "tcp_memory_reset")
      ]),
  ]

  public static let request: Signal? = Signal(
    "TCP memory by namespace, on request",
    [
      Hook(
        .iterator(every: .zero), "iter/tcp", object: "tcp_memory", program: "tcp_memory_use")
    ])

  /// `enum tcp_memory_scenario` in bpf/tcp_memory.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case near = 1
    case exhausted = 2
    case reset = 3
    case orphan = 4
    case use = 5

    var name: String {
      switch self {
      case .near: "TCP memory near pressure"
      case .exhausted: "TCP memory exhausted"
      case .reset: "TCP connection reset for want of memory"
      case .orphan: "orphaned TCP connection reset"
      case .use: "TCP memory by namespace"
      }
    }
  }

  /// `enum tcp_memory_value` in bpf/tcp_memory.bpf.c: which number is which.
  private enum Value: Int, CaseIterable {
    case pages, low, pressure, high
    case sending, received, senders, receivers, sendLimit, receiveLimit, certain
  }

  public static let mirrors: [String: [String: Int64]] = [
    "tcp_memory_scenario": [
      "TCP_MEMORY_NEAR": Scenario.near.rawValue,
      "TCP_MEMORY_EXHAUSTED": Scenario.exhausted.rawValue,
      "TCP_MEMORY_RESET": Scenario.reset.rawValue,
      "TCP_MEMORY_ORPHAN": Scenario.orphan.rawValue,
      "TCP_MEMORY_USE": Scenario.use.rawValue,
    ],
    "tcp_memory_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "PAGES", "LOW", "PRESSURE", "HIGH", "SENDING", "RECEIVED", "SENDERS", "RECEIVERS",
          "SEND_LIMIT", "RECEIVE_LIMIT", "CERTAIN",
        ].map { "TCP_MEMORY_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// What sockets hold in one direction in a namespace.
  public struct Use: Sendable, Equatable {
    /// Bytes in all queues.
    public var bytes: Int64 = 0
    /// Sockets whose queue is not small.
    public var sockets: Int64 = 0
    /// Bytes: the maximum of `tcp_wmem` or `tcp_rmem`.
    public var limit: Int64 = 0
  }

  /// How TCP's memory stands.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    public var namespace: NamespaceID
    /// Pages that all sockets hold.
    public var pages: Int64
    /// The three numbers of `tcp_mem`.
    public var limits: [Int64]
    /// Of the namespace, where it was asked for.
    public var sending = Use()
    public var receiving = Use()
    /// Bytes that the machine can spare, with page cache that would give way.
    public var available: Int64
    /// Orphans, and how many there may be; 0 when not known.
    public var orphans: Int64 = 0
    public var mostOrphans: Int64 = 0
    /// Whether the kernel has said that a reset was for memory or orphans.
    public var isCertain = false
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// Near the point at which the kernel calls it pressure. The account lags
    /// by up to a megabyte a processor, and an answer takes a moment.
    var isNear: Bool { isNear(limits[1]) }
    func isNear(_ limit: Int64) -> Bool { pages >= limit - limit / 8 }
    /// The kernel has called it pressure, or refused memory.
    var isPressure: Bool {
      pages > limits[1] || scenario == .exhausted || scenario == .reset
    }
    /// Near the point at which the kernel refuses memory.
    var isNearEnd: Bool { pages >= limits[2] - limits[2] / 8 || scenario == .exhausted }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, namespace: event.namespace, pages: value(.pages),
      limits: [value(.low), value(.pressure), value(.high)],
      sending: Use(
        bytes: value(.sending), sockets: value(.senders), limit: value(.sendLimit)),
      receiving: Use(
        bytes: value(.received), sockets: value(.receivers), limit: value(.receiveLimit)),
      available: freeMemory, isCertain: value(.certain) != 0, time: event.time)
  }

  public static func complete(_ seen: inout Observation) {
    guard seen.scenario != .use else { return }
    seen.available = Memory.available() ?? seen.available
    if seen.scenario == .orphan {
      seen.orphans = TCPSockets.orphans() ?? 0
      seen.mostOrphans = (try? Sysctl.read(mostOrphans))?.maximum ?? 0
    }
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Between two looks while pressure is near.
    public var look: Duration
    /// For how long it must have been gone before relief ends.
    public var calm: Duration
    /// For how long little must have been needed before `tcp_mem` comes down.
    public var quiet: Duration

    public init(
      look: Duration = .milliseconds(250), calm: Duration = .seconds(10),
      quiet: Duration = .seconds(300)
    ) {
      self.look = look
      self.calm = calm
      self.quiet = quiet
    }
  }

  let times: Times
  private let learningRate: LearningRate
  /// Bytes of the machine.
  let memory: Int64
  /// Pages that the kernel may have buffers in.
  private let bufferPages: Int64
  /// `tcp_mem` before the first raise, and after the last; nil when it stands as
  /// it was.
  private var raised: (from: SysctlValue, to: SysctlValue)?
  private var quietSince: UInt64?
  /// `tcp_max_orphans` before the first raise: it goes to four times that.
  private var firstOrphans: Int64?
  var relief = Relief()

  public init(learningRate: LearningRate) {
    self.init(learningRate: learningRate, times: Times())
  }

  public init(
    learningRate: LearningRate, times: Times, memory: Int64 = Memory.total,
    bufferPages: Int64 = Memory.bufferPages
  ) {
    self.learningRate = learningRate
    self.times = times
    self.memory = memory
    self.bufferPages = bufferPages
  }

  public var recheck: Duration? {
    if relief.isUnderWay { return relief.isNew ? .zero : times.look }
    return raised == nil ? nil : times.quiet / 5
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    let known = 1...Int64(1) << 40
    guard seen.limits.count == 3, seen.limits.allSatisfy(known.contains),
      (0...known.upperBound).contains(seen.pages)
    else { return .leave("no limits are known") }
    switch seen.scenario {
    case .orphan: return allowOrphans(seen)
    case .use:
      return seen.isNear || relief.isUnderWay && !relief.met.contains(seen.namespace)
        ? relieve(seen) : comeBack(seen)
    case .near, .exhausted, .reset:
      quietSince = nil
      if let wanted = more(seen) {
        // It is not near only, or will be as near afterwards.
        if seen.isPressure || seen.isNear(wanted.numbers[1]) { relief.begin(seen.time) }
        return .adjust([
          Adjustment(
            Self.limits, from: .whole(Self.value(seen.limits)), to: .whole(wanted),
            scenario: seen.scenario.name, reason: reason(seen))
        ])
      }
      relief.begin(seen.time)
      return .hold(
        "\(reason(seen)), and tcp_mem is at its bounds: smaller buffers where most is held",
        about: "tcp_mem")
    }
  }

  static func value(_ numbers: [Int64]) -> SysctlValue {
    .triple(minimum: numbers[0], initial: numbers[1], maximum: numbers[2])
  }

  /// `tcp_mem` with more room; nil when there is none to be had.
  private func more(_ seen: Observation) -> SysctlValue? {
    let page = Memory.pageSize
    // Where the kernel itself begins with 4.7, 6.2 and 9.4 % (`tcp_init_mem`).
    let bounds = [6, 9, 25].map { bufferPages / 100 * Int64($0) }
    // TCP may take half of what the machine can spare.
    let most = seen.pages + seen.available / 2 / page
    let growth = learningRate.growth(most: 2)
    let wanted = Int64(Double(max(seen.pages, seen.limits[1])) * growth)
    let shares = [wanted / 4 * 3, wanted, wanted / 2 * 3]
    let new = (0..<3).map { max(seen.limits[$0], min(shares[$0], bounds[$0], most)) }
    // A raise of the last alone helps when the others are at their bounds.
    guard most > seen.limits[2], new[0] <= new[1], new[1] <= new[2],
      new[2] <= Self.limits.bounds.upperBound,
      (0..<3).contains(where: { new[$0] > seen.limits[$0] + seen.limits[$0] / 16 })
    else { return nil }
    return Self.value(new)
  }

  /// After relief, or with `tcp_mem` raised: whether it is needed still.
  private mutating func comeBack(_ seen: Observation) -> Decision {
    if relief.isUnderWay { return endRelief(seen) }
    guard let raised, raised.to == Self.value(seen.limits),
      let first = raised.from.numbers.first
    else {
      raised = nil
      return .leave("nothing is raised")
    }
    guard seen.pages < first / 2 else {
      quietSince = nil
      return .leave("TCP holds \(seen.pages) pages still")
    }
    let since = quietSince ?? seen.time
    quietSince = since
    guard seen.time &- since >= times.quiet.nanoseconds else {
      return .leave("TCP holds \(seen.pages) pages, but not for long enough")
    }
    return .adjust([
      Adjustment(
        Self.limits, from: .whole(raised.to), to: .whole(raised.from),
        scenario: "TCP memory not needed",
        reason: "TCP has held less than \(first / 2) pages for \(times.quiet.components.seconds) s")
    ])
  }

  /// An orphan is reset when there are too many; one whose peer does not answer
  /// counts up to four times (`tcp_too_many_orphans` in net/ipv4/tcp.c).
  private mutating func allowOrphans(_ seen: Observation) -> Decision {
    let known = 0...Int64(Int32.max)
    guard known.contains(seen.mostOrphans), known.contains(seen.orphans),
      seen.isCertain || seen.orphans > seen.mostOrphans / 4
    else { return .leave("\(seen.orphans) orphans are not many: reset for another reason") }
    let words =
      "too many connections that no process holds any more, for \(seen.mostOrphans)"
      + " allowed (\(seen.orphans) are left): the kernel resets them with data unsent"
    guard !seen.isNear else {
      return .hold("\(words); memory is short, so that stays", about: "tcp_max_orphans")
    }
    let first = firstOrphans ?? seen.mostOrphans
    firstOrphans = first
    // A sixteenth of the memory in sockets of 4 KiB; what is in their queues is
    // bounded by tcp_mem.
    let most = memory / 16 / 4096
    let wanted = min(max(seen.mostOrphans, seen.orphans, 64) * 4, most)
    guard wanted > seen.mostOrphans + seen.mostOrphans / 8 else {
      return .hold("\(words); more would be too much for the memory", about: "tcp_max_orphans")
    }
    return .adjust([
      Adjustment(
        Self.mostOrphans, from: seen.mostOrphans, to: wanted, scenario: seen.scenario.name,
        reason: words)
    ])
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard adjustment.tunable == Self.limits else { return relief.learn(adjustment, outcome) }
    guard case .applied(let old, let new, _) = outcome else {
      if case .refused = outcome { raised = nil }
      return
    }
    let from = raised?.from ?? old
    raised = from == new ? nil : (from, new)
    quietSince = nil
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    if holding.tunable == Self.limits {
      raised = (holding.original, holding.written)
    } else {
      relief.recall(holding, at: time)
    }
  }

  func reason(_ seen: Observation) -> String {
    let held = "TCP holds \(seen.pages) pages"
    return switch seen.scenario {
    case .reset: "\(held) of \(seen.limits[2]), and the kernel resets connections"
    case .exhausted: "\(held) of \(seen.limits[2]), and the kernel refuses more"
    default: "\(held), and pressure begins at \(seen.limits[1])"
    }
  }
}
