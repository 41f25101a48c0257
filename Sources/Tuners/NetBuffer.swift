public import Kernel
public import State

/// net-buffer: lengthens the backlog of processors for bursts that it has no
/// room for, and keeps one flow from pushing all others out of it.
///
/// A backlog that is full tells a burst from a processor that cannot keep up
/// only when it is looked at again and again: after a burst it is empty. No
/// queue is long enough for the other; it is left alone.
public struct NetBuffer: Policy {
  public static let name = "net-buffer"
  public static let scope = Tunable.Scope.global

  public static let backlog = global("netdev_max_backlog", 0...Int64(Int32.max))
  public static let budget = global("netdev_budget", 1...Int64(Int32.max))
  public static let time = global("netdev_budget_usecs", 1...Int64(Int32.max))
  public static let orderZero = global("high_order_alloc_disable", 0...1)
  public static let flowLimit = Tunable(
    "net.core.flow_limit_cpu_bitmap", .text, .global, bounds: 0...0)
  public static let tunables = [backlog, budget, time, flowLimit, orderZero]

  private static func global(_ name: String, _ bounds: ClosedRange<Int64>) -> Tunable {
    Tunable("net.core.\(name)", .scalar, .global, bounds: bounds)
  }

  public static let signals = [
    Signal(
      "packet dropped, backlog full",
      [
        Hook(
          .dropReason("SKB_DROP_REASON_CPU_BACKLOG"), "tp_btf/kfree_skb, CPU_BACKLOG",
          object: "net_buffer",
          program: "net_buffer_drop", since: KernelVersion(5, 18)),
        Hook(.poll(every: .seconds(1)), "/proc/net/softnet_stat every 1 s"),
      ])
  ]

  /// `enum net_buffer_scenario` in bpf/net_buffer.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable { case drops = 1 }

  /// `enum net_buffer_value` in bpf/net_buffer.bpf.c: which number is which.
  enum Value: Int, CaseIterable { case processor, virtual, nameLow, nameHigh }

  public static let mirrors: [String: [String: Int64]] = [
    "net_buffer_scenario": ["NET_BUFFER_DROPS": Scenario.drops.rawValue],
    "net_buffer_value": [
      "NET_BUFFER_CPU": 0, "NET_BUFFER_VIRTUAL": 1, "NET_BUFFER_NAME_LOW": 2,
      "NET_BUFFER_NAME_HIGH": 3,
    ],
  ]

  public enum Observation: Sendable, Equatable {
    /// Drops have begun.
    case drops(Drops)
    /// How things stand.
    case look(Look)
  }

  public struct Drops: Sendable, Equatable {
    /// The processor that wanted to queue the packet; whose backlog it was to
    /// be may be another.
    public var processor: Int
    /// The device is no hardware: a veth, a tunnel, a bridge.
    public var isVirtual: Bool
    public var device: String
    public var namespace: NamespaceID
  }

  public struct Look: Sendable, Equatable {
    public var softnet: Softnet
    public var values: Values
    /// `high_order_alloc_disable` where it does harm: the kernel keeps pages of
    /// higher orders at hand for each processor, since 5.14.
    public var isOrderZero: Bool
    /// Microseconds that some task has waited for a processor, in all; nil
    /// where that is not known.
    public var waited: Int64?
    /// Bytes.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64
  }

  /// Of the tunables that come down again.
  public struct Values: Sendable, Equatable {
    public var backlog: Int64
    public var budget: Int64
    /// Microseconds.
    public var time: Int64
    /// As the kernel writes a set of processors; nil where there is none.
    public var flowLimit: String?
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard Scenario(rawValue: Int64(event.scenario)) != nil,
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return .drops(
      Drops(
        processor: Int(value(.processor)), isVirtual: value(.virtual) != 0,
        device: Words.text(value(.nameLow), value(.nameHigh)), namespace: event.namespace))
  }

  public static let looks = true

  public static func look() throws -> Observation {
    func number(_ tunable: Tunable) throws(Sysctl.Failure) -> Int64 {
      try Sysctl.read(tunable).maximum ?? 0
    }
    // Not in every kernel: the flow limit can be left out, and the other is of 5.10.
    let flowLimit = try? Sysctl.read(flowLimit).description
    let orderZero = try? number(orderZero)
    return .look(
      Look(
        softnet: try Softnet.read(),
        values: Values(
          backlog: try number(backlog), budget: try number(budget), time: try number(time),
          flowLimit: flowLimit),
        isOrderZero: orderZero == 1 && KernelVersion.running >= KernelVersion(5, 14),
        waited: Pressure.processors(), freeMemory: Memory.free(), time: KernelEvent.now()))
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Between looks while packets are dropped.
    public var tick: Duration
    /// Between looks while something is raised, and while the budget is.
    public var look: Duration
    public var lookAtBudget: Duration
    /// For how long nothing must have been dropped before something comes down.
    public var quiet: Duration
    /// For how long nothing is raised when a processor could not keep up, or tasks
    /// had to wait; the first time.
    public var hold: Duration

    public init(
      tick: Duration = .milliseconds(10), look: Duration = .seconds(60),
      lookAtBudget: Duration = .seconds(5), quiet: Duration = .seconds(300),
      hold: Duration = .seconds(10)
    ) {
      self.tick = tick
      self.look = look
      self.lookAtBudget = lookAtBudget
      self.quiet = quiet
      self.hold = hold
    }
  }

  let learningRate: LearningRate
  let times: Times
  /// Before the first change: nothing comes down further.
  var original: Values?
  /// What is raised, and was not put back.
  var raised: Set<Tunable> = []
  /// What an earlier daemon raised, and from where.
  private var recalled: [Tunable: SysctlValue] = [:]
  var last: Look?
  var window: Window?
  /// What the events since the last decision told: the processors that had no
  /// room, and where packets came in.
  var processors: Set<Int> = []
  var device: Drops?
  var isHardware = false
  /// When a packet was dropped last.
  var lastDrop: UInt64 = 0
  /// Multiplies how long it takes until the backlog comes down: drops that come
  /// back soon after it did double it.
  var patience: UInt64 = 1
  var lowered: UInt64?
  /// A step of the backlog came before: the budget may be next.
  var stepped = false
  /// The budget was raised: the share of time that tasks waited before, in
  /// percent, and since when.
  var waitBefore: Int64?
  var budgetSince: Look?
  /// When a processor could not keep up last.
  var overload: UInt64?
  var hold = Hold()
  var budgetHold = Hold()

  /// Nothing is raised until then; twice as long each time, up to an hour.
  struct Hold {
    var until: UInt64 = 0
    var length: UInt64 = 0

    mutating func begin(at time: UInt64, first: UInt64) {
      guard time >= until else { return }
      // After a long time without, it starts over.
      let isOld = time - until > NetBuffer.mostHold
      length = isOld ? first : min(max(first, length * 2), NetBuffer.mostHold)
      until = time + length
    }
  }

  /// Nanoseconds: an hour.
  static let mostHold: UInt64 = 3_600_000_000_000
  /// Packets: longer takes longer than packets should wait.
  static let mostBacklog: Int64 = 65_536
  /// Bytes that a packet in the backlog takes, with what describes it.
  static let packetSize: Int64 = 2304
  /// Packets, and microseconds, in one go before tasks get their turn.
  static let mostBudget: Int64 = 2400
  static let mostTime: Int64 = 10_000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  public var recheck: Duration? {
    if window != nil { return times.tick }
    if budgetSince != nil { return times.lookAtBudget }
    return raised.isEmpty ? nil : times.look
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    switch seen {
    case .drops(let drops):
      processors.insert(drops.processor)
      if !drops.isVirtual { isHardware = true }
      device = drops
      if window == nil { window = Window() }
      return .leave("packets from \(drops.device) are dropped: looking closer")
    case .look(let look):
      defer { last = look }
      if raised.isEmpty { original = look.values }
      takeUpRecalled()
      guard let last else { return .leave("how it stands at the start") }
      let change = Window.Change(from: last.softnet, to: look.softnet)
      if change.worst > 0 {
        lastDrop = look.time
        window = window ?? Window()
      }
      guard var window else { return quieten(look) }
      window.take(change, look, after: last.time)
      guard window.looks >= Window.needed else {
        self.window = window
        return .adjust([])
      }
      self.window = nil
      return judge(window, look)
    }
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard holding.tunable != Self.orderZero else { return }
    recalled[holding.tunable] = holding.original
    lastDrop = time
  }

  private mutating func takeUpRecalled() {
    for (tunable, value) in recalled {
      original?.set(tunable, to: value)
      raised.insert(tunable)
    }
    recalled = [:]
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    switch outcome {
    case .applied:
      let isBack = original.map { adjustment.wanted == $0.part(of: adjustment.tunable) } ?? false
      if isBack { raised.remove(adjustment.tunable) } else { raised.insert(adjustment.tunable) }
      if adjustment.tunable == Self.orderZero { raised.remove(Self.orderZero) }
    case .advised: break
    case .refused(.administrator):
      // All of the tuner is disabled: there is nothing left to look after.
      raised = []
      budgetSince = nil
    case .refused:
      if adjustment.tunable == Self.time || adjustment.tunable == Self.budget { budgetSince = nil }
    }
  }
}

extension NetBuffer.Values {
  /// The value of one of them as an adjustment has it.
  func part(of tunable: Tunable) -> SysctlPart? {
    switch tunable {
    case NetBuffer.backlog: .maximum(backlog)
    case NetBuffer.budget: .maximum(budget)
    case NetBuffer.time: .maximum(time)
    case NetBuffer.flowLimit: flowLimit.map { .whole(.text($0)) }
    default: nil
    }
  }

  mutating func set(_ tunable: Tunable, to value: SysctlValue) {
    switch (tunable, value) {
    case (NetBuffer.backlog, .scalar(let number)): backlog = number
    case (NetBuffer.budget, .scalar(let number)): budget = number
    case (NetBuffer.time, .scalar(let number)): time = number
    case (NetBuffer.flowLimit, .text(let text)): flowLimit = text
    default: return
    }
  }
}
