public import Kernel

/// neigh: grows a neighbour table before it refuses an entry, keeps entries
/// that are evicted only to be made again, and gives back what is not needed.
///
/// A table is one a family for the whole kernel: entries of all namespaces
/// count together, and its thresholds belong to the init namespace. So one
/// state stands for the machine, and what bounds a table is what the prefixes
/// of all namespaces could need.
public struct Neigh: Policy {
  public static let name = "neigh"
  public static let summary = "sizes the neighbour tables (ARP, IPv6) by the entries they need"
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

  /// Whether the device takes no gratuitous ARP (`arp_process` in
  /// net/ipv4/arp.c).
  public static let dropGratuitous = Tunable(
    "net.ipv4.conf.*.drop_gratuitous_arp", .scalar, .perNamespace, bounds: 0...1)

  public static let tunables =
    NeighbourTable.allCases.flatMap { table in
      [1, 2, 3].map { threshold($0, of: table) } + [staleTime(of: table)]
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

    var name: String {
      switch self {
      case .filling: "need to grow neighbour table"
      case .report: "neighbour table larger than needed"
      case .churn: "neighbours evicted and made again"
      case .unsolicited: "flood of unsolicited ARP"
      }
    }
  }

  /// `enum neigh_value` in bpf/neigh.bpf.c: which number is which.
  enum Value: Int, CaseIterable {
    case family, entries, gcEntries, threshold1, threshold2, threshold3
    case rate, refused, need, count, away, accepts, nameLow, nameHigh
  }

  public static let mirrors: [String: [String: Int64]] = [
    "neigh_scenario": [
      "NEIGH_FILLING": Scenario.filling.rawValue,
      "NEIGH_REPORT": Scenario.report.rawValue,
      "NEIGH_CHURN": Scenario.churn.rawValue,
      "NEIGH_UNSOLICITED": Scenario.unsolicited.rawValue,
    ],
    "neigh_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "FAMILY", "ENTRIES", "GC_ENTRIES", "THRESH1", "THRESH2", "THRESH3", "RATE", "REFUSED",
          "NEED", "COUNT", "AWAY", "ACCEPTS", "NAME_LOW", "NAME_HIGH",
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
    /// Entries made again, or learned unasked for.
    public var count: Int64
    /// Milliseconds that one of those made again was away, at most.
    public var away: Int64
    /// `arp_accept` is on for the device.
    public var accepts: Bool
    public var device: String
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
      device: name(value(.nameLow), value(.nameHigh)), namespace: event.namespace,
      freeMemory: freeMemory, time: event.time)
  }

  /// The name of a device, 16 bytes in two numbers.
  private static func name(_ low: Int64, _ high: Int64) -> String {
    withUnsafeBytes(of: (low, high)) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
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
    /// Devices whose entries are kept for longer.
    var kept: [Device: Kept] = [:]
  }

  struct Device: Hashable {
    let namespace: NamespaceID
    let name: String
  }

  /// A device whose entries were evicted too early.
  struct Kept {
    /// Seconds: `gc_stale_time` before the first change, and now.
    var original: Int64
    var current: Int64
    var raised = false
    var lastChurn: UInt64
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
  var floods: [Device: Flood] = [:]

  /// No table gets a third threshold above this: a million neighbours are more
  /// than any link has, and 512 MiB.
  static let most: Int64 = 1 << 20
  /// Bytes of kernel memory an entry, with its share of the hash table.
  static let entrySize: Int64 = 512
  /// The kernel's own value of `gc_stale_time`, in seconds.
  static let usualStaleTime: Int64 = 60
  /// Seconds: entries are kept no longer than this.
  static let mostStaleTime: Int64 = 900
  private static let mostDevices = 256
  /// Nanoseconds: once an hour something is tried without.
  private static let mostHold: UInt64 = 3_600_000_000_000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    let raised = tables.values.contains {
      !$0.raised.isEmpty || $0.kept.values.contains { $0.raised }
    }
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
    defer { tables[seen.table] = table }
    switch seen.scenario {
    case .filling: return grow(&table, seen)
    case .report: return shrink(&table, seen)
    case .churn: return keep(&table, seen)
    case .unsolicited: return drop(seen)
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
        if adjustment.wanted > original {
          tables[table]?.raised.insert(number)
        } else {
          tables[table]?.raised.remove(number)
        }
      }
    }
    guard let namespace = adjustment.namespace else { return }
    let path = adjustment.tunable.path
    if let name = Self.dropGratuitous.device(inPath: path), case .applied = outcome {
      floods[Device(namespace: namespace, name: name)]?.dropping = adjustment.wanted == 1
    }
    for table in NeighbourTable.allCases {
      guard let name = Self.staleTime(of: table).device(inPath: path) else { continue }
      let device = Device(namespace: namespace, name: name)
      let kept = learned(adjustment, outcome, tables[table]?.kept[device])
      tables[table]?.kept[device] = kept
    }
  }

  private func learned(_ adjustment: Adjustment, _ outcome: Outcome, _ kept: Kept?) -> Kept? {
    guard var kept else { return nil }
    switch outcome {
    case .applied:
      kept.current = adjustment.wanted
      kept.raised = adjustment.wanted > kept.original
    case .refused(.stale(.scalar(let current))) where !kept.raised:
      // The first guess was the kernel's own value.
      kept.original = current
      kept.current = current
    case .refused: return nil
    case .advised: break
    }
    return kept
  }

  // MARK: Growing

  private func grow(_ table: inout Table, _ seen: Observation) -> Decision {
    table.smallSince = nil
    let hard = seen.thresholds[2]
    let step = Int64(Double(hard) * learningRate.growth(most: 16))
    let memory = (seen.freeMemory / 16 / Self.entrySize) + seen.entries
    let room = min(Self.most, memory)
    // Forced collection begins at half of what entries are refused at: all
    // that could be needed has to fit below.
    let needed = 2 * min(max(table.need, seen.need), Self.most)
    if needed < min(step, room), table.surveyed != seen.time { return .survey }
    let wanted = min(step, needed, room)
    guard wanted > hard + hard / 8 else { return .hold(held(seen, table, memory: memory)) }

    var adjustments = [adjust(3, of: seen, to: wanted)]
    // Between the two writes, the table has more room, never less.
    if wanted / 2 > seen.thresholds[1] {
      adjustments.append(adjust(2, of: seen, to: wanted / 2))
    }
    return .adjust(adjustments)
  }

  private func held(_ seen: Observation, _ table: Table, memory: Int64) -> String {
    let name = seen.table.rawValue
    let start = "\(name) holds \(seen.gcEntries) of \(seen.thresholds[2]) entries and is not grown:"
    let need = max(table.need, seen.need)
    if seen.thresholds[2] + seen.thresholds[2] / 8 >= 2 * min(need, Self.most) {
      return need >= Self.most
        ? "\(start) \(Self.most) are as many as a table gets"
        : "\(start) the prefixes configured on this machine have no more than \(need) addresses"
          + " (a scan, or a route to too large a prefix over \(seen.device), looks like this)"
    }
    return "\(start) free memory (\(Words.bytes(seen.freeMemory))) is for no more than \(memory)"
  }

  private func adjust(_ number: Int, of seen: Observation, to wanted: Int64) -> Adjustment {
    Adjustment(
      Self.threshold(number, of: seen.table), from: seen.thresholds[number - 1], to: wanted,
      scenario: seen.scenario.name, reason: reason(seen))
  }

  private func reason(_ seen: Observation) -> String {
    var text = "\(seen.table.rawValue), which all namespaces share, holds \(seen.gcEntries)"
      + " of \(seen.thresholds[2]) entries"
    let exempt = seen.entries - seen.gcEntries
    if exempt > 0 { text += " and \(exempt) permanent ones" }
    if seen.scenario == .filling {
      text += ", the last on \(seen.device)"
      if seen.rate > 0 { text += ", \(seen.rate) more a second" }
      if seen.refused > 0 { text += "; refused so far: \(seen.refused)" }
    }
    return text
  }

  // MARK: Shrinking

  private mutating func shrink(_ table: inout Table, _ seen: Observation) -> Decision {
    var adjustments = release(&table, seen) + lift(seen)
    guard !table.raised.isEmpty else {
      return adjustments.isEmpty ? .leave("nothing is raised") : .adjust(adjustments)
    }
    let wanted = max(table.original[2], Self.powerOfTwo(from: seen.gcEntries * 8))
    guard wanted <= seen.thresholds[2] / 2 || wanted == table.original[2] else {
      table.smallSince = nil
      return adjustments.isEmpty
        ? .leave("\(seen.gcEntries) of \(seen.thresholds[2]) entries are in use")
        : .adjust(adjustments)
    }
    let since = table.smallSince ?? seen.time
    table.smallSince = since
    if seen.elapsed(since: since) >= times.quiet.nanoseconds {
      table.smallSince = nil
      // The lower one first: at no time do they cross. The first threshold has
      // a time of its own.
      let target = [
        table.original[0], max(table.original[1], min(wanted / 2, seen.thresholds[1])), wanted,
      ]
      for number in 2...3
      where table.raised.contains(number) && target[number - 1] < seen.thresholds[number - 1] {
        let whole = wanted == table.original[2]
        adjustments.append(
          adjust(number, of: seen, to: whole ? table.original[number - 1] : target[number - 1]))
      }
    }
    return adjustments.isEmpty
      ? .leave("\(seen.table.rawValue) is small, but not for long enough") : .adjust(adjustments)
  }

  /// The next power of two, no less than `count`.
  static func powerOfTwo(from count: Int64) -> Int64 {
    var power: Int64 = 1
    while power < count, power < 1 << 40 { power *= 2 }
    return power
  }

  // MARK: Churn

  /// Entries were evicted and soon made again: they are kept for as long as
  /// their users stay away, and where that is too long, none is collected
  /// below a higher first threshold.
  private func keep(_ table: inout Table, _ seen: Observation) -> Decision {
    if seen.gcEntries >= seen.thresholds[1] / 2 { return grow(&table, seen) }
    let device = Device(namespace: seen.namespace, name: seen.device)
    var kept =
      table.kept[device]
      ?? Kept(
        original: Self.usualStaleTime, current: Self.usualStaleTime, lastChurn: seen.time,
        hold: times.keep.nanoseconds)
    if table.kept.count >= Self.mostDevices, table.kept[device] == nil {
      return .leave("too many devices evict neighbours")
    }
    kept.lastChurn = seen.time
    table.kept[device] = kept
    let wanted = min(
      max(2 * kept.current, kept.current + seen.away / 1000 + 30), Self.mostStaleTime)
    if wanted > kept.current {
      return .adjust([
        Adjustment(
          Self.staleTime(of: seen.table).of(device: seen.device), from: kept.current,
          to: wanted, in: seen.namespace,
          scenario: seen.scenario.name, reason: churn(seen))
      ])
    }
    let first = min(Self.powerOfTwo(from: 2 * seen.entries), seen.thresholds[1] / 2)
    table.lastChurn = seen.time
    if table.hold == 0 { table.hold = times.keep.nanoseconds }
    guard first > seen.thresholds[0] else { return .leave("they are kept as long as can be") }
    return .adjust([
      Adjustment(
        Self.threshold(1, of: seen.table), from: seen.thresholds[0], to: first,
        scenario: seen.scenario.name, reason: churn(seen))
    ])
  }

  private func churn(_ seen: Observation) -> String {
    "\(seen.count) neighbours on \(seen.device) were evicted and made again within"
      + " \((seen.away + 999) / 1000) s; \(seen.table.rawValue) holds \(seen.gcEntries)"
  }

  // MARK: Floods

  /// A flood of unsolicited ARP makes entries by the dozen, by a device that
  /// accepts gratuitous ARP of those it does not know.
  private mutating func drop(_ seen: Observation) -> Decision {
    guard seen.accepts else {
      return .leave(
        "\(seen.count) neighbours on \(seen.device) asked for an address of this host"
          + " within a second")
    }
    guard seen.gcEntries >= seen.thresholds[0] else {
      return .leave("the table is small enough for what \(seen.device) announces")
    }
    let device = Device(namespace: seen.namespace, name: seen.device)
    if floods.count >= Self.mostDevices, floods[device] == nil {
      return .leave("too many devices are flooded")
    }
    var flood = floods[device] ?? Flood(since: seen.time, hold: times.drop.nanoseconds)
    flood.since = seen.time
    floods[device] = flood
    return .adjust([
      Adjustment(
        Self.dropGratuitous.of(device: seen.device), from: 0, to: 1, in: seen.namespace,
        scenario: seen.scenario.name,
        reason: "unsolicited ARP on \(seen.device) made \(seen.count) entries within a second;"
          + " \(seen.table.rawValue) holds \(seen.gcEntries) of \(seen.thresholds[2])",
        risk: Self.dropRisk)
    ])
  }

  /// Takes gratuitous ARP again: what is dropped makes no events, so only that
  /// tells whether the flood goes on.
  private mutating func lift(_ seen: Observation) -> [Adjustment] {
    var adjustments: [Adjustment] = []
    for (device, flood) in floods where seen.elapsed(since: flood.since) >= flood.hold {
      guard flood.dropping else {
        floods[device] = nil
        continue
      }
      floods[device]?.since = seen.time
      floods[device]?.hold = min(flood.hold * 2, Self.mostHold)
      adjustments.append(
        Adjustment(
          Self.dropGratuitous.of(device: device.name), from: 1, to: 0, in: device.namespace,
          scenario: Scenario.unsolicited.name,
          reason: "to see whether the flood on \(device.name) has ended", risk: Self.dropRisk))
    }
    return adjustments
  }

  /// Tries whether entries need to be kept any more.
  private func release(_ table: inout Table, _ seen: Observation) -> [Adjustment] {
    var adjustments: [Adjustment] = []
    if table.raised.contains(1), seen.elapsed(since: table.lastChurn) >= table.hold {
      table.lastChurn = seen.time
      table.hold = min(table.hold * 2, Self.mostHold)
      adjustments.append(adjust(1, of: seen, to: table.original[0]))
    }
    for (device, kept) in table.kept
    where kept.raised && seen.elapsed(since: kept.lastChurn) >= kept.hold {
      table.kept[device]?.lastChurn = seen.time
      table.kept[device]?.hold = min(kept.hold * 2, Self.mostHold)
      adjustments.append(
        Adjustment(
          Self.staleTime(of: seen.table).of(device: device.name), from: kept.current,
          to: kept.original, in: device.namespace, scenario: seen.scenario.name,
          reason: "no neighbour on \(device.name) was evicted too early for"
            + " \((seen.elapsed(since: kept.lastChurn)) / 1_000_000_000) s"))
    }
    return adjustments
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
