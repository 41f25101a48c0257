public import Kernel
public import State

/// tcp-listen: room for connections that come in faster than they are
/// established or accepted.
///
/// A listener has two queues, and its backlog, which `somaxconn` clamps when
/// listen() is called, bounds both. Without SYN cookies `tcp_max_syn_backlog`
/// bounds the first one too; with them the kernel does not look at it
/// (`tcp_conn_request` in net/ipv4/tcp_input.c). More room is of use to a burst
/// of connections. To a flood it is not, nor to a process that is too slow to
/// accept, where it only lets connections wait longer.
public struct TCPListen: Policy {
  public static let name = "tcp-listen"

  public static let synBacklog = Tunable(
    "net.ipv4.tcp_max_syn_backlog", .scalar, .perNamespace, bounds: 1...most)
  public static let synCookies = Tunable(
    "net.ipv4.tcp_syncookies", .scalar, .perNamespace, bounds: 0...2)
  public static let backlogMaximum = Tunable(
    "net.core.somaxconn", .scalar, .perNamespace, bounds: 1...most)
  public static let tunables = [synBacklog, synCookies, backlogMaximum]

  public static let signals = [
    Signal(
      "TCP connections established by a listener",
      [
        Hook(
          .section(.tracepoint), "tp_btf/inet_sock_set_state", object: "tcp_listen",
          program: "tcp_listen_state"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_listen",
          program: "tcp_listen_poll"),
      ]),
    Signal(
      "SYN/ACKs that nobody answers",
      [
        Hook(
          .section(.tracepoint), "tp_btf/tcp_retransmit_synack", object: "tcp_listen",
          program: "tcp_listen_repeat"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_listen",
          program: "tcp_listen_poll"),
      ]),
  ]

  public static let adoption: Signal? = Signal(
    "TCP listeners older than the daemon", onlyWith: .tracepoint,
    [
      Hook(
        .iterator(every: .zero), "iter/tcp", object: "tcp_listen", program: "tcp_listen_adopt")
    ])

  public static let request: Signal? = Signal(
    "TCP listeners, on request",
    [
      Hook(
        .iterator(every: .zero), "iter/tcp", object: "tcp_listen",
        program: "tcp_listen_report")
    ])

  /// `enum tcp_listen_scenario` in bpf/tcp_listen.h.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case acceptFull = 1
    case synFull = 2
    case unanswered = 3
    case report = 4
  }

  /// `enum tcp_listen_value` in bpf/tcp_listen.h: which number is which.
  private enum Value: Int, CaseIterable {
    case port, synQueue, young, acceptQueue, backlog, synBacklog, synCookies, somaxconn
    case added, repeated, clamp, process, commLow, commHigh, inode, since
  }

  public static let mirrors: [String: [String: Int64]] = [
    "tcp_listen_scenario": [
      "TCP_LISTEN_ACCEPT_FULL": Scenario.acceptFull.rawValue,
      "TCP_LISTEN_SYN_FULL": Scenario.synFull.rawValue,
      "TCP_LISTEN_UNANSWERED": Scenario.unanswered.rawValue,
      "TCP_LISTEN_REPORT": Scenario.report.rawValue,
    ],
    "tcp_listen_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "PORT", "SYN_QUEUE", "YOUNG", "ACCEPT_QUEUE", "BACKLOG", "SYN_BACKLOG", "SYNCOOKIES",
          "SOMAXCONN", "ADDED", "REPEATED", "CLAMP", "PROCESS", "COMM_LOW", "COMM_HIGH", "INODE",
          "SINCE",
        ].map { "TCP_LISTEN_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// How a listener stands.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    public var namespace: NamespaceID
    /// 0 in the report that ends a series of them.
    public var port: Int64
    /// Connections asked for and not established; established and not accepted.
    public var synQueue: Int64
    public var acceptQueue: Int64
    /// What bounds each of the two, for this listener.
    public var backlog: Int64
    public var synBacklog: Int64
    public var synCookies: Int64
    public var somaxconn: Int64
    /// Connections established, and SYN/ACKs sent again, in `since` milliseconds.
    public var added: Int64
    public var repeated: Int64
    public var since: Int64
    /// `somaxconn` when listen() was called; 0 when that was not seen.
    public var clamp: Int64
    /// Who called it, where that was seen.
    public var process: Int64
    public var command: String
    /// Of the listening socket, in reports.
    public var inode: Int64
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// How many SYNs are kept; see `syn_limit` in bpf/tcp_listen.h.
    var synLimit: Int64 {
      synCookies == 0 ? min(backlog, synBacklog - synBacklog / 4) : backlog
    }
    /// Milliseconds, no less than 1.
    func elapsed(since then: UInt64) -> Int64 {
      max(1, Int64(clamping: (time > then ? time - then : 0) / 1_000_000))
    }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, namespace: event.namespace, port: value(.port),
      synQueue: value(.synQueue), acceptQueue: value(.acceptQueue), backlog: value(.backlog),
      synBacklog: value(.synBacklog), synCookies: value(.synCookies),
      somaxconn: value(.somaxconn), added: value(.added), repeated: value(.repeated),
      since: value(.since), clamp: value(.clamp), process: value(.process),
      command: Words.text(value(.commLow), value(.commHigh)), inode: value(.inode),
      freeMemory: freeMemory, time: event.time)
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// From a full accept queue to the look at how it drains.
    public var look: Duration
    /// Between two looks at a raised `tcp_max_syn_backlog`, and for how long it
    /// must not have been full before it comes down.
    public var check: Duration
    public var quiet: Duration

    public init(
      look: Duration = .milliseconds(300), check: Duration = .seconds(60),
      quiet: Duration = .seconds(900)
    ) {
      self.look = look
      self.check = check
      self.quiet = quiet
    }
  }

  /// What was raised for connections that fill the queue of SYNs.
  struct SynState {
    /// `tcp_max_syn_backlog` before the first change; nil when it is not raised.
    var original: Int64?
    /// When the queue was full last, of connections.
    var lastFull: UInt64 = 0
    /// The last step, and the connections a second that came before it.
    var step: (seen: Observation, rate: Double)?
    /// The step that brought no more connections, and when that was found.
    var uselessSince: UInt64?
  }

  let learningRate: LearningRate
  let times: Times
  var syn = SynState()
  /// The last event of each port: what has been counted since then is new.
  var last: [Int64: Observation] = [:]
  /// Accept queues that were full, until it is known how they drain.
  var pending: [Int64: Observation] = [:]
  /// `somaxconn` before the first change, for listeners older than the daemon.
  var originalMaximum: Int64?
  /// Who has a listening socket, by inode; 0 when nobody was found.
  var owners: [Int64: Int64] = [:]

  static let mostPorts = 64
  /// No queue gets longer than this.
  static let most: Int64 = 65_535
  /// Bytes of kernel memory that a SYN takes, about.
  static let requestSize: Int64 = 512
  /// Milliseconds after which a client sends its SYN again: a connection that
  /// waits longer is not better off in a queue.
  static let patience: Int64 = 1000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    if !pending.isEmpty { return times.look }
    return syn.original == nil ? nil : times.check
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    guard seen.port != 0 else { return closeSeries(seen) }
    guard seen.backlog > 0, seen.synBacklog > 0, seen.somaxconn > 0 else {
      return .leave("port \(seen.port) has no queue, as its process asked for")
    }
    switch seen.scenario {
    case .acceptFull: return expect(seen)
    case .report: return judge(seen)
    case .synFull: return synFull(seen)
    case .unanswered: return unanswered(seen)
    }
  }

  /// Every listener has been reported.
  private mutating func closeSeries(_ seen: Observation) -> Decision {
    // What was not reported by now is closed.
    pending = pending.filter {
      seen.time < $0.value.time || seen.time - $0.value.time < 4 * times.look.nanoseconds
    }
    guard let original = syn.original, seen.time > syn.lastFull,
      seen.time - syn.lastFull > times.quiet.nanoseconds
    else { return .leave("the listeners have been looked at") }
    return .adjust([
      Adjustment(
        Self.synBacklog, from: seen.synBacklog, to: original,
        scenario: "more room for SYNs is not needed any more",
        reason: "no queue of SYNs has been full for \(times.quiet.nanoseconds / 60_000_000_000) min"
      )
    ])
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    if holding.tunable == Self.synBacklog {
      syn.original = holding.original.maximum
      syn.lastFull = time
    } else if holding.tunable == Self.backlogMaximum {
      originalMaximum = holding.original.maximum
    }
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    switch (adjustment.tunable, outcome) {
    case (Self.synBacklog, .applied):
      if let original = syn.original, adjustment.wanted.number <= original {
        syn.original = nil
        syn.step = nil
      } else {
        syn.original = syn.original ?? adjustment.assumed.number
      }
    case (Self.backlogMaximum, .applied):
      originalMaximum = originalMaximum ?? adjustment.assumed.number
    default: break
    }
  }

  /// Looks for the process that has the socket: once for each.
  public static func survey(_ observation: Observation) throws -> Int64 {
    try SocketOwner.find(
      inode: observation.inode, inNamespace: observation.namespace.inode)
  }

  public mutating func learn(surveyed sum: Int64, for observation: Observation) {
    if owners.count >= Self.mostPorts { owners = [:] }
    owners[observation.inode] = sum
  }

  // MARK: Words

  /// `pid 123 (nginx)`.
  func owner(_ seen: Observation) -> String {
    if seen.process > 0 { return "pid \(seen.process) (\(seen.command))" }
    guard let found = owners[seen.inode], found > 0 else { return "its process" }
    return "pid \(found)"
  }
}
