public import Kernel
public import State

/// ip-frag: gives fragments more memory to wait in for the rest of their
/// datagrams, where those that are refused would have made whole ones.
///
/// At `high_thresh` the kernel refuses every fragment, also those of datagrams
/// that it has begun (`inet_frag_find` in net/ipv4/inet_fragment.c), until the
/// oldest time out. Fragments are an attacker's tool: what is refused has to
/// look like datagrams, reassembly has to succeed once there is more room, and
/// there is a bound.
public struct IPFrag: Policy {
  public static let name = "ip-frag"

  /// Bytes that fragments of a namespace may hold.
  public static func limit(of family: Family) -> Tunable {
    Tunable(
      family == .v4 ? "net.ipv4.ipfrag_high_thresh" : "net.ipv6.ip6frag_high_thresh",
      .scalar, .perNamespace, bounds: 1...Int64(Int32.max))
  }

  public static let tunables = Family.allCases.map { limit(of: $0) }

  public enum Family: Int64, CaseIterable, Sendable {
    /// AF_INET and AF_INET6.
    case v4 = 2
    case v6 = 10
  }

  public static let signals = [
    Signal(
      "fragment refused",
      [
        Hook(
          .dropReason("SKB_DROP_REASON_NOT_SPECIFIED"), "tp_btf/kfree_skb, NOT_SPECIFIED",
          object: "ip_frag",
          program: "ip_frag_freed", since: KernelVersion(5, 17)),
        Hook(
          .section(.tracepoint), "tp_btf/kfree_skb", object: "ip_frag",
          program: "ip_frag_freed"),
      ])
  ]

  public static let request: Signal? = Signal(
    "memory of fragments, on request",
    [Hook(.request, "raw_tp, run by hand", object: "ip_frag", program: "ip_frag_report")])

  /// `enum ip_frag_scenario` in bpf/ip_frag.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case refused = 1
    case look = 2
  }

  /// `enum ip_frag_value` in bpf/ip_frag.bpf.c: which number is which.
  private enum Value: Int, CaseIterable {
    case family, limit, held, waiting, refusals, first, last, bytes, whole
  }

  public static let mirrors: [String: [String: Int64]] = [
    "ip_frag_scenario": [
      "IP_FRAG_REFUSED": Scenario.refused.rawValue,
      "IP_FRAG_LOOK": Scenario.look.rawValue,
    ],
    "ip_frag_value": Dictionary(
      uniqueKeysWithValues: zip(
        ["FAMILY", "LIMIT", "HELD", "WAITING", "REFUSALS", "FIRST", "LAST", "BYTES", "WHOLE"]
          .map { "IP_FRAG_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// What was refused, and put together, in a namespace so far.
  struct Counts: Sendable, Equatable {
    var refusals: Int64
    /// Of those, how many were a datagram's first, and its last.
    var first: Int64
    var last: Int64
    /// Bytes in them, and in the datagrams that the last ones end.
    var bytes: Int64
    var whole: Int64
    /// Datagrams that were put together.
    var completed: Int64

    static func - (a: Counts, b: Counts) -> Counts {
      Counts(
        refusals: a.refusals - b.refusals, first: a.first - b.first, last: a.last - b.last,
        bytes: a.bytes - b.bytes, whole: a.whole - b.whole, completed: a.completed - b.completed)
    }

    /// Whether it makes whole datagrams, all but a quarter, and not many more
    /// beginnings than ends.
    var areDatagrams: Bool {
      whole > 0 && bytes / 3 >= whole / 4 && first <= 2 * last + 2
    }
  }

  /// How the memory of fragments stands in a namespace.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    public var family: Family
    /// Bytes that fragments may hold, and do hold.
    public var limit: Int64
    public var held: Int64
    /// Datagrams that wait for the rest of them.
    public var waiting: Int64
    var counts: Counts
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// Nanoseconds since then; 0 when that lies ahead.
    func elapsed(since then: UInt64) -> UInt64 { time > then ? time - then : 0 }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    guard let family = Family(rawValue: value(.family)) else { return nil }
    return Observation(
      scenario: scenario, family: family, limit: value(.limit), held: value(.held),
      waiting: value(.waiting),
      counts: Counts(
        refusals: value(.refusals), first: value(.first), last: value(.last),
        bytes: value(.bytes), whole: value(.whole), completed: 0),
      freeMemory: freeMemory, time: event.time)
  }

  public static let readsInside = true

  public static func complete(_ observation: inout Observation) {
    observation.counts.completed =
      (observation.family == .v4
        ? NamespaceCounters.snmp("Ip", "ReasmOKs") : NamespaceCounters.snmp6("Ip6ReasmOKs")) ?? 0
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Between two looks at what is refused.
    public var look: Duration
    /// Until it is clear what is refused, and whether a raise has helped.
    public var judge: Duration
    /// Between two looks at what was raised.
    public var interval: Duration
    /// Without a refusal, what was raised goes back after that time.
    public var quiet: Duration
    /// After a raise that brought nothing there is none for that time; twice
    /// as long each time.
    public var penalty: Duration

    public init(
      look: Duration = .milliseconds(50), judge: Duration = .seconds(1),
      interval: Duration = .seconds(60), quiet: Duration = .seconds(540),
      penalty: Duration = .seconds(60)
    ) {
      self.look = look
      self.judge = judge
      self.interval = interval
      self.quiet = quiet
      self.penalty = penalty
    }
  }

  /// A raise whose effect is not known yet.
  struct Trial {
    /// Bytes that fragments might hold before.
    let from: Int64
    var since: UInt64
    let before: Counts
    let waiting: Int64
    /// Nothing has come since that could tell.
    var isIdle = false
  }

  /// What is known of a family in this namespace.
  struct State {
    /// Before the first raise, and now.
    var original: Int64
    var current: Int64
    /// What had been counted when what is refused was looked at first.
    var base: Counts
    var since: UInt64
    var lastRefusals: Int64
    var trial: Trial?
    /// When there was need of it last.
    var needed: UInt64 = 0
    /// No raise before, and for how many nanoseconds the next time.
    var barredUntil: UInt64 = 0
    var penalty: UInt64
    /// Looked at again soon.
    var isOpen = true

    var isRaised: Bool { current > original }
  }

  let learningRate: LearningRate
  let times: Times
  var states: [Family: State] = [:]

  /// Bytes: the most that fragments of a namespace get.
  static let most: Int64 = 64 << 20
  static let mostPenalty: UInt64 = 3_600_000_000_000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    if states.values.contains(where: { $0.isOpen || $0.trial?.isIdle == false }) {
      return times.look
    }
    return states.values.contains { $0.isRaised } ? times.interval : nil
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    for family in Family.allCases where adjustment.tunable == Self.limit(of: family) {
      guard var state = states[family] else { continue }
      switch outcome {
      case .applied(_, _, let time):
        state.current = adjustment.wanted.number
        // It has an effect from now on.
        if let trial = state.trial { state.trial?.since = max(trial.since, time) }
      case .advised: state.trial = nil
      case .refused:
        state.trial = nil
        // What cannot go back is not tried again and again.
        state.current = state.original
      }
      states[family] = state
    }
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let family = Family.allCases.first(where: { Self.limit(of: $0) == holding.tunable }),
      let original = holding.original.maximum, let written = holding.written.maximum
    else { return }
    let nothing = Counts(refusals: 0, first: 0, last: 0, bytes: 0, whole: 0, completed: 0)
    states[family] = State(
      original: original, current: written, base: nothing, since: time, lastRefusals: 0,
      needed: time, penalty: times.penalty.nanoseconds, isOpen: false)
  }
}
