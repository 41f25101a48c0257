public import Kernel
public import State

/// conntrack: grows netfilter's table of connections when it refuses new ones, or
/// drops answered ones for them, and the hash table below it.
///
/// One limit holds for all namespaces, each of which has a count of its own
/// held against it (`__nf_conntrack_alloc` in net/netfilter/nf_conntrack_core.c);
/// it can be set from the init namespace only.
public struct Conntrack: Policy {
  public static let name = "conntrack"
  public static let scope = Tunable.Scope.global

  /// Connections that a namespace may have.
  public static let limit = Tunable(
    "net.netfilter.nf_conntrack_max", .scalar, .global, bounds: 1...Int64(Int32.max))
  /// Chains of the hash table, which all namespaces share.
  public static let buckets = Tunable(
    "net.netfilter.nf_conntrack_buckets", .scalar, .global, bounds: 1...Int64(Int32.max))
  public static let tunables = [limit, buckets]

  public static let signals = [
    Signal(
      "packet dropped by netfilter",
      [
        Hook(
          .dropReason("SKB_DROP_REASON_NETFILTER_DROP"), "tp_btf/kfree_skb, NETFILTER_DROP",
          object: "conntrack",
          program: "conntrack_drop", since: KernelVersion(5, 18)),
        Hook(
          .section(.tracepoint), "tp_btf/kfree_skb, by place", object: "conntrack_place",
          program: "conntrack_drop_somewhere"),
      ]),
    // The kernel tells nobody; that a packet is dropped for it may come first.
    Signal(
      "connection evicted for another",
      [Hook(.poll(every: .seconds(30)), "/proc/net/stat/nf_conntrack every 30 s")]),
  ]

  public static let request: Signal? = Signal(
    "namespaces whose packets netfilter dropped, on request",
    [Hook(.request, "raw_tp, run by hand", object: "conntrack", program: "conntrack_report")])

  /// `enum conntrack_scenario` in bpf/conntrack.h.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case drop = 1
    case look = 2
    /// Not of the kernel: a namespace was polled.
    case poll = 3
  }

  public static let mirrors: [String: [String: Int64]] = [
    "conntrack_scenario": [
      "CONNTRACK_DROP": Scenario.drop.rawValue,
      "CONNTRACK_LOOK": Scenario.look.rawValue,
    ],
    "conntrack_value": ["CONNTRACK_DROPS": 0],
  ]

  /// How the table stands in a namespace.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    /// Packets that netfilter dropped, for whatever cause.
    public var drops: Int64
    /// Connections of the namespace, the limit, and chains of the hash table;
    /// 0 where connections are not tracked, as before the module is loaded.
    public var count: Int64
    public var limit: Int64
    public var buckets: Int64
    /// Connections refused since the table was full, and connections that had to
    /// make room: any that the kernel does not call assured.
    public var refused: Int64
    public var evicted: Int64
    /// Some of the entries, where the table is as good as full.
    public var sample = ConntrackTable()
    public var namespace: NamespaceID
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// It has no room for another one, or had none a moment ago.
    var isFull: Bool { limit > 0 && count >= limit - limit / 16 }

    /// Nanoseconds since then; 0 when that lies ahead.
    func elapsed(since then: UInt64) -> UInt64 { time > then ? time - then : 0 }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, let drops = values.first
    else { return nil }
    return Observation(
      scenario: scenario, drops: drops, count: 0, limit: 0, buckets: 0, refused: 0, evicted: 0,
      namespace: event.namespace, freeMemory: freeMemory, time: event.time)
  }

  public static let readsInside = true
  private static let folder = "/proc/sys/net/netfilter/"

  public static func complete(_ observation: inout Observation) {
    func number(_ name: String) -> Int64 { NamespaceCounters.number(in: folder + name) ?? 0 }
    observation.count = number("nf_conntrack_count")
    observation.limit = number("nf_conntrack_max")
    observation.buckets = number("nf_conntrack_buckets")
    let counters = NamespaceCounters.conntrack(["drop", "early_drop"])
    guard counters.count == 2 else { return }
    observation.refused = counters[0]
    observation.evicted = counters[1]
    guard observation.isFull else { return }
    // Where it cannot be read, what is evicted counts as not answered.
    observation.sample = (try? ConntrackTable.sample(most: sampled)) ?? ConntrackTable()
  }

  /// Entries that tell what most of those are that may be evicted: a millisecond.
  private static let sampled: Int64 = 1024

  public static func poll(_ namespace: NamespaceID) -> Observation? {
    // The limit is the same in each namespace; without it nothing is tracked.
    guard NamespaceCounters.number(in: folder + "nf_conntrack_max") != nil else { return nil }
    return Observation(
      scenario: .poll, drops: 0, count: 0, limit: 0, buckets: 0, refused: 0, evicted: 0,
      namespace: namespace, freeMemory: Memory.free(), time: KernelEvent.now())
  }

  /// How many connections there are in all namespaces.
  public static func survey(_ observation: Observation) -> Int64 {
    NamespaceCounters.number(in: folder + "nf_conntrack_count") ?? 0
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Until it is clear why packets are dropped.
    public var look: Duration
    /// Between two looks at a table that was raised.
    public var interval: Duration
    /// When nothing was refused for that long, what was raised goes back.
    public var quiet: Duration

    public init(
      look: Duration = .milliseconds(50), interval: Duration = .seconds(60),
      quiet: Duration = .seconds(540)
    ) {
      self.look = look
      self.interval = interval
      self.quiet = quiet
    }
  }

  /// What had been counted in a namespace when it was looked at last.
  struct Base {
    var refused: Int64
    var evicted: Int64
    var time: UInt64
    /// Looked at again soon.
    var isOpen: Bool
    /// The table was full then.
    var isFull: Bool
  }

  /// A tunable that is raised.
  struct Raised {
    let original: Int64
    var current: Int64
  }

  let learningRate: LearningRate
  let times: Times
  var bases: [NamespaceID: Base] = [:]
  var raised: [Tunable: Raised] = [:]
  /// When a connection was refused or evicted last, or most of the original table in use.
  var needed: UInt64 = 0
  /// Connections in all namespaces, and for which observation they were counted.
  var surveyed: (sum: Int64, time: UInt64)?

  static let mostNamespaces = 256
  /// No table gets a limit above this: 2 GiB.
  static let most: Int64 = 4 << 20
  /// Bytes of kernel memory an entry, with what belongs to it and its chain.
  static let entrySize: Int64 = 512
  /// The kernel rounds the number of chains up to a page of them.
  static let chainsInPage = Memory.pageSize / 8

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    if bases.values.contains(where: { $0.isOpen }) { return times.look }
    return raised.isEmpty ? nil : times.interval
  }

  public mutating func forget(_ namespace: NamespaceID) { bases[namespace] = nil }

  public mutating func learn(surveyed sum: Int64, for observation: Observation) {
    surveyed = (sum, observation.time)
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    let tunable = adjustment.tunable
    switch outcome {
    case .applied:
      let original = raised[tunable]?.original ?? adjustment.assumed.number
      let current = adjustment.wanted.number
      raised[tunable] =
        current == original ? nil : Raised(original: original, current: current)
    case .refused(.stale), .refused(.administrator): raised[tunable] = nil
    case .advised, .refused: break
    }
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let original = holding.original.maximum, let written = holding.written.maximum else {
      return
    }
    raised[holding.tunable] = Raised(original: original, current: written)
    needed = time
  }
}
