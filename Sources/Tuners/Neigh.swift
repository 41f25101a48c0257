public import Kernel
public import State

/// neigh: grows a neighbour table before it refuses an entry, keeps entries
/// that are evicted only to be made again, and gives back what is not needed.
///
/// A table is one a family for the whole kernel: entries of all namespaces
/// count together, and its thresholds belong to the init namespace. So one
/// state stands for the machine, and what bounds a table is what the prefixes
/// of all namespaces could need.
public struct Neigh: Policy {
  public static let name = "neigh"
  public static let scope = Tunable.Scope.global

  /// `gc_thresh1`, 2 and 3: below the first nothing is collected, from the
  /// second on collection is forced, at the third entries are refused
  /// (`neigh_alloc` and `neigh_periodic_work` in net/core/neighbour.c).
  public static func threshold(_ number: Int, of table: NeighbourTable) -> Tunable {
    Tunable(
      "net.\(table.version).neigh.default.gc_thresh\(number)", .scalar, .global,
      bounds: 1...Int64(Int32.max), means: .neighbourTable(table, threshold: number))
  }

  /// Seconds that an entry of a device is kept after it was used last.
  public static func staleTime(of table: NeighbourTable) -> Tunable {
    Tunable(
      "net.\(table.version).neigh.*.gc_stale_time", .scalar, .perNamespace,
      bounds: 1...Int64(Int32.max / 1000))
  }

  /// Milliseconds, half to one and a half times of which an entry of a device is
  /// taken for reachable before it is probed again. In the table's own copy,
  /// half of it is the interval of garbage collection; `gc_interval` is read by
  /// nothing in the kernel any more.
  public static func reachableTime(of table: NeighbourTable) -> Tunable {
    Tunable(
      "net.\(table.version).neigh.*.base_reachable_time_ms", .scalar, .perNamespace,
      bounds: 1...Int64(Int32.max / 2))
  }

  /// Bytes that may wait for the address of one neighbour of a device, in the
  /// truesize of packets: past that the oldest is dropped (`__neigh_event_send`
  /// in net/core/neighbour.c). `unres_qlen` is the same number in packets.
  public static func queueLimit(of table: NeighbourTable) -> Tunable {
    Tunable(
      "net.\(table.version).neigh.*.unres_qlen_bytes", .scalar, .perNamespace,
      bounds: 0...Int64(Int32.max))
  }

  /// Whether the device takes no gratuitous ARP (`arp_process` in
  /// net/ipv4/arp.c).
  public static let dropGratuitous = Tunable(
    "net.ipv4.conf.*.drop_gratuitous_arp", .scalar, .perNamespace, bounds: 0...1)

  public static let tunables =
    NeighbourTable.allCases.flatMap { table in
      [1, 2, 3].map { threshold($0, of: table) }
        + [staleTime(of: table), reachableTime(of: table), queueLimit(of: table)]
    } + [dropGratuitous]

  static let dropRisk = Risk(
    "neigh.drop_gratuitous_arp",
    warning: "breaks failover that announces itself by gratuitous ARP, such as VRRP")
  public static let risks = [dropRisk]

  public static let signals = [
    Signal(
      "neighbour table filling",
      [
        Hook(
          .section(.tracepoint), "tp_btf/neigh_create", object: "neigh", program: "neigh_create")
      ]),
    Signal(
      "neighbour made again",
      [
        Hook(
          .section(.tracepoint), "tp_btf/neigh_update", object: "neigh", program: "neigh_learn")
      ]),
    Signal(
      "neighbour evicted",
      [
        Hook(
          .section(.tracepoint), "tp_btf/neigh_cleanup_and_release", object: "neigh",
          program: "neigh_evict")
      ]),
    Signal(
      "neighbour learned unasked for",
      [
        Hook(
          .section(.tracepoint), "tp_btf/neigh_update", object: "neigh", program: "neigh_learn")
      ]),
    Signal(
      "packet waits for an address",
      [
        Hook(
          .section(.tracepoint), "tp_btf/neigh_event_send_done", object: "neigh",
          program: "neigh_wait")
      ]),
  ]

  public static let request: Signal? = Signal(
    "neighbour tables, on request",
    [Hook(.request, "raw_tp, run by hand", object: "neigh", program: "neigh_report")])

  /// `enum neigh_scenario` in bpf/neigh.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case filling = 1
    case report = 2
    case churn = 3
    case unsolicited = 4
    case probes = 5
    case waited = 6

    var name: String {
      switch self {
      case .filling: "need to grow neighbour table"
      case .report: "neighbour table larger than needed"
      case .churn: "neighbours evicted and made again"
      case .unsolicited: "flood of unsolicited ARP"
      case .probes: "neighbours probed too often"
      case .waited: "packets lost while an address was asked for"
      }
    }
  }

  /// `enum neigh_value` in bpf/neigh.bpf.c: which number is which.
  enum Value: Int, CaseIterable {
    case family, entries, gcEntries, threshold1, threshold2, threshold3
    case rate, refused, need, count, away, accepts, nameLow, nameHigh
    case queue, lost
  }

  public static let mirrors: [String: [String: Int64]] = [
    "neigh_scenario": [
      "NEIGH_FILLING": Scenario.filling.rawValue,
      "NEIGH_REPORT": Scenario.report.rawValue,
      "NEIGH_CHURN": Scenario.churn.rawValue,
      "NEIGH_UNSOLICITED": Scenario.unsolicited.rawValue,
      "NEIGH_PROBES": Scenario.probes.rawValue,
      "NEIGH_WAITED": Scenario.waited.rawValue,
    ],
    "neigh_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "FAMILY", "ENTRIES", "GC_ENTRIES", "THRESH1", "THRESH2", "THRESH3", "RATE", "REFUSED",
          "NEED", "COUNT", "AWAY", "ACCEPTS", "NAME_LOW", "NAME_HIGH", "QUEUE", "LOST",
        ].map { "NEIGH_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// How a table stands, and what happened to it.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    public var table: NeighbourTable
    /// All entries.
    public var entries: Int64
    /// Those that garbage collection may take, which are those that the
    /// thresholds are held against. Permanent ones are not among them.
    public var gcEntries: Int64
    /// `gc_thresh1`, 2 and 3.
    public var thresholds: [Int64]
    /// Entries added a second, lately; 0 when not known.
    public var rate: Int64
    /// Entries refused since the daemon was started.
    public var refused: Int64
    /// Addresses in the prefixes of the device concerned.
    public var need: Int64
    /// Entries made again, learned unasked for, or probed in a second; packets
    /// lost while they waited for an address.
    public var count: Int64
    /// Milliseconds that one of those made again was away, at most; or that the
    /// queue of packets was full.
    public var away: Int64
    /// `arp_accept` is on for the device.
    public var accepts: Bool
    public var device: String
    /// Bytes that may wait for an address on the device, and those that were lost.
    public var queue: Int64 = 0
    public var lost: Int64 = 0
    /// The table's counters, where they were read.
    public var counts: NeighbourTable.Counts?
    public var namespace: NamespaceID
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// Nanoseconds since then; 0 when that lies ahead, as events may come in
    /// another order than they happened in.
    func elapsed(since then: UInt64) -> UInt64 { time > then ? time - then : 0 }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    guard let table = NeighbourTable.allCases.first(where: { Int64($0.family) == value(.family) })
    else { return nil }
    return Observation(
      scenario: scenario, table: table, entries: value(.entries), gcEntries: value(.gcEntries),
      thresholds: [value(.threshold1), value(.threshold2), value(.threshold3)],
      rate: value(.rate), refused: value(.refused), need: value(.need), count: value(.count),
      away: value(.away), accepts: value(.accepts) != 0,
      device: Words.text(value(.nameLow), value(.nameHigh)), queue: value(.queue),
      lost: value(.lost), namespace: event.namespace,
      freeMemory: freeMemory, time: event.time)
  }

  /// Adds the table's counters, but for growing: that must not wait for a file.
  public static func complete(_ seen: inout Observation) {
    guard seen.scenario != .filling else { return }
    seen.counts = seen.table.counts()
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Between two looks at a table that was raised.
    public var look: Duration
    /// For how long a table must have been small before it shrinks.
    public var quiet: Duration
    /// For how long entries are kept longer, the first time.
    public var keep: Duration
    /// For how long gratuitous ARP is dropped, the first time.
    public var drop: Duration

    public init(
      look: Duration = .seconds(60), quiet: Duration = .seconds(300),
      keep: Duration = .seconds(900), drop: Duration = .seconds(60)
    ) {
      self.drop = drop
      self.look = look
      self.quiet = quiet
      self.keep = keep
    }
  }

  /// What is known of a table.
  struct Table {
    /// The thresholds before the first change: it does not shrink below them.
    var original: [Int64]
    /// Those that are raised, by number.
    var raised: Set<Int> = []
    /// Addresses in the prefixes of all namespaces, when they were counted.
    var need: Int64 = 0
    /// The time of the observation that they were counted for.
    var surveyed: UInt64?
    var smallSince: UInt64?
    /// When entries were made again last, with the first threshold raised, and
    /// nanoseconds until it is tried without; doubles each time.
    var lastChurn: UInt64 = 0
    var hold: UInt64 = 0
    /// The table's counters when they were read first, and last.
    var first: NeighbourTable.Counts?
    var last: NeighbourTable.Counts?
  }

  struct Device: Hashable {
    let namespace: NamespaceID
    let name: String
  }

  /// A tunable of a device: one of the two times above, or the queue.
  struct Place: Hashable {
    let namespace: NamespaceID
    let tunable: Tunable
  }

  /// A time that was too short for a device, or a queue.
  struct Kept {
    /// Before the first change, and now.
    var original: Int64
    var current: Int64
    var raised = false
    /// When it was too short.
    var last: UInt64
    /// Nanoseconds until it is tried without; doubles each time.
    var hold: UInt64
  }

  /// A device that a flood comes in by.
  struct Flood {
    var dropping = false
    /// When dropping began, or was lifted.
    var since: UInt64
    /// Nanoseconds until it is tried without; doubles each time.
    var hold: UInt64
  }

  let learningRate: LearningRate
  let times: Times
  var tables: [NeighbourTable: Table] = [:]
  var kept: [Place: Kept] = [:]
  var floods: [Device: Flood] = [:]

  /// No table gets a third threshold above this: a million neighbours are more
  /// than any link has, and 512 MiB.
  static let most: Int64 = 1 << 20
  /// Bytes of kernel memory an entry, with its share of the hash table.
  static let entrySize: Int64 = 512
  /// The kernel's own values of the two times, and how far they are raised:
  /// seconds, and milliseconds. A neighbour that is gone is noticed that much
  /// later.
  static let staleTimes: ClosedRange<Int64> = 60...900
  static let reachableTimes: ClosedRange<Int64> = 30_000...240_000
  /// Bytes: no queue for an address gets longer. Who is never found holds as much
  /// for three seconds.
  static let mostQueue: Int64 = 4 << 20
  static let mostDevices = 256
  /// Nanoseconds: once an hour something is tried without.
  static let mostHold: UInt64 = 3_600_000_000_000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    let raised =
      tables.values.contains { !$0.raised.isEmpty } || kept.values.contains { $0.raised }
    return raised || floods.values.contains { $0.dropping } ? times.look : nil
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    let known = 1...Int64(Int32.max)
    guard seen.thresholds.count == 3, seen.thresholds.allSatisfy(known.contains) else {
      return .leave("no thresholds are known")
    }
    var table = tables[seen.table] ?? Table(original: seen.thresholds)
    if table.raised.isEmpty { table.original = seen.thresholds }
    if let counts = seen.counts {
      table.first = table.first ?? counts
      table.last = counts
    }
    defer { tables[seen.table] = table }
    switch seen.scenario {
    case .filling: return grow(&table, seen)
    case .report: return shrink(&table, seen)
    case .churn: return keep(&table, seen)
    case .unsolicited: return drop(seen)
    case .probes: return trust(seen)
    case .waited: return lengthen(seen)
    }
  }

  public var findings: [String] {
    tables.compactMap { table, known in
      guard let first = known.first, let last = known.last else { return nil }
      return "\(table.rawValue): \(first.words(upTo: last))"
    }
  }

  public static func survey(_ observation: Observation) throws -> Int64 {
    try observation.table.need(most: most)
  }

  public mutating func learn(surveyed sum: Int64, for observation: Observation) {
    tables[observation.table]?.need = sum
    tables[observation.table]?.surveyed = observation.time
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    for table in NeighbourTable.allCases {
      for number in 1...3 where adjustment.tunable == Self.threshold(number, of: table) {
        guard case .applied = outcome, let original = tables[table]?.original[number - 1]
        else { continue }
        if adjustment.wanted.number > original {
          tables[table]?.raised.insert(number)
        } else {
          tables[table]?.raised.remove(number)
        }
      }
    }
    guard let namespace = adjustment.namespace else { return }
    let path = adjustment.tunable.path
    if let name = Self.dropGratuitous.device(inPath: path), case .applied = outcome {
      floods[Device(namespace: namespace, name: name)]?.dropping = adjustment.wanted.number == 1
    }
    let place = Place(namespace: namespace, tunable: adjustment.tunable)
    kept[place] = learned(adjustment, outcome, kept[place])
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let original = holding.original.maximum, let written = holding.written.maximum else {
      return
    }
    for table in NeighbourTable.allCases {
      for number in 1...3 where holding.tunable == Self.threshold(number, of: table) {
        var known = tables[table] ?? Table(original: [0, 0, 0])
        known.original[number - 1] = original
        known.raised.insert(number)
        tables[table] = known
      }
    }
    let path = holding.tunable.path
    if let name = Self.dropGratuitous.device(inPath: path) {
      let device = Device(namespace: holding.namespace, name: name)
      floods[device] = Flood(dropping: true, since: time, hold: times.drop.nanoseconds)
    }
    let ofDevices = NeighbourTable.allCases.flatMap {
      [Self.staleTime(of: $0), Self.reachableTime(of: $0), Self.queueLimit(of: $0)]
    }
    if ofDevices.contains(where: { $0.device(inPath: path) != nil }) {
      kept[Place(namespace: holding.namespace, tunable: holding.tunable)] = Kept(
        original: original, current: written, raised: true, last: time,
        hold: times.keep.nanoseconds)
    }
  }

  private func learned(_ adjustment: Adjustment, _ outcome: Outcome, _ kept: Kept?) -> Kept? {
    guard var kept else { return nil }
    switch outcome {
    case .applied:
      kept.current = adjustment.wanted.number
      kept.raised = adjustment.wanted.number > kept.original
    case .refused(.stale(.scalar(let current))) where !kept.raised:
      // The first guess was the kernel's own value.
      kept.original = current
      kept.current = current
    case .refused: return nil
    case .advised: break
    }
    return kept
  }
}

extension NeighbourTable.Counts {
  /// How they went on, in words.
  func words(upTo now: Self) -> String {
    "\(forcedCollections) forced collections, \(refused) entries refused and \(discarded) packets"
      + " lost in queues when they were counted first, \(now.forcedCollections &- forcedCollections),"
      + " \(now.refused &- refused) and \(now.discarded &- discarded) since"
  }
}

extension NeighbourTable {
  /// As sysctl names have it.
  var version: String { self == .arp ? "ipv4" : "ipv6" }
}

extension Duration {
  /// Whole nanoseconds, no less than 0.
  var nanoseconds: UInt64 {
    let (seconds, attoseconds) = components
    return UInt64(clamping: seconds) * 1_000_000_000 + UInt64(clamping: attoseconds / 1_000_000_000)
  }
}
