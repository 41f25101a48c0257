import Kernel

extension NetBuffer {
  /// A few looks in a row at processors that drop packets.
  struct Window: Sendable {
    /// So many looks, a tick apart.
    static let needed = 10

    var looks = 0
    /// Looks in a row that found drops or packets still waiting, and at how many of
    /// them packets were.
    private var strained = 0
    private var waiting = 0
    /// Half of the looks in a row found drops or packets that wait, and most of those
    /// the latter: nothing that is over soon.
    private(set) var isOverload = false
    var dropped: Int64 = 0
    var flowLimited: Int64 = 0
    var squeezed: Int64 = 0
    /// The most that one processor dropped in one burst: in looks in a row.
    var burst: Int64 = 0
    private var running: Int64 = 0
    /// Processors that dropped.
    var processors: Set<Int> = []
    var nanoseconds: UInt64 = 0
    var first: Look?

    mutating func take(_ change: Change, _ look: Look, after before: UInt64) {
      looks += 1
      first = first ?? look
      nanoseconds += look.time > before ? look.time - before : 0
      dropped += change.dropped
      flowLimited += change.flowLimited
      squeezed += change.squeezed
      processors.formUnion(change.droppers)
      running = change.worst > 0 ? running + change.worst : 0
      burst = max(burst, running)
      let waits = look.softnet.processors.contains {
        processors.contains($0.index) && $0.queued > 0
      }
      strained = waits || change.worst > 0 ? strained + 1 : 0
      waiting = strained == 0 ? 0 : waiting + (waits ? 1 : 0)
      if strained * 2 >= Self.needed, waiting * 2 >= strained { isOverload = true }
    }

    /// What happened between two looks.
    struct Change: Sendable {
      var dropped: Int64 = 0
      var flowLimited: Int64 = 0
      var squeezed: Int64 = 0
      /// The most that one processor dropped.
      var worst: Int64 = 0
      var droppers: Set<Int> = []

      init(from old: Softnet, to new: Softnet) {
        let before = Dictionary(
          old.processors.map { ($0.index, $0) }, uniquingKeysWith: { first, _ in first })
        for now in new.processors {
          guard let then = before[now.index] else { continue }
          let count = Int64(now.dropped &- then.dropped)
          dropped += count
          flowLimited += Int64(now.flowLimited &- then.flowLimited)
          squeezed += Int64(now.squeezed &- then.squeezed)
          worst = max(worst, count)
          if count > 0 { droppers.insert(now.index) }
        }
      }
    }
  }

  // MARK: Packets are dropped

  /// So few are not worth a longer queue.
  static let few: Int64 = 8

  mutating func judge(_ window: Window, _ look: Look) -> Decision {
    defer {
      processors = []
      isHardware = false
      device = nil
    }
    guard window.dropped >= Self.few else {
      return .leave("\(window.dropped) packets dropped: too few to matter")
    }
    var adjustments = limitFlows(window, look)
    if window.isOverload {
      adjustments += giveUp(window, look)
      guard adjustments.isEmpty else { return .adjust(adjustments) }
      return .hold(
        "\(drops(window)), but the backlog of the processor never empties: it cannot keep up, and"
          + " no queue is long enough for that", about: "overload")
    }
    if let lowered, look.time &- lowered < Self.mostHold { patience = min(patience * 2, 12) }
    lowered = nil
    guard look.time >= hold.until else {
      guard adjustments.isEmpty else { return .adjust(adjustments) }
      return .leave("\(drops(window)), soon after a processor could not keep up")
    }
    // In this order: what the backlog alone could not do comes after its step.
    adjustments += growBudget(window, look)
    adjustments += lengthen(window, look)
    if look.isOrderZero, !adjustments.isEmpty {
      adjustments.append(
        Adjustment(
          Self.orderZero, from: 1, to: 0, scenario: "need to allocate larger pages again",
          reason: "\(drops(window)); this kernel keeps larger pages at hand for each processor, and"
            + " single ones cost it more time"))
    }
    if !adjustments.isEmpty {
      self.window = Window()
      return .adjust(adjustments)
    }
    return .leave("\(drops(window)): all is as far as it may go")
  }

  private func drops(_ window: Window) -> String {
    let origin = device.map { " from \($0.device) in \($0.namespace)" } ?? ""
    let milliseconds = window.nanoseconds / 1_000_000
    return "\(window.dropped) packets\(origin) dropped within \(milliseconds) ms,"
      + " backlog of CPU \(Words.list(window.processors)) full"
  }

  /// A flow that fills a backlog by itself should not cost others their packets.
  private func limitFlows(_ window: Window, _ look: Look) -> [Adjustment] {
    // The limit is that of the processor which queues a packet (`skb_flow_limit` in
    // net/core/dev.c). The hook told which; the counters do not, where packets are
    // handed over.
    let wanted = processors.isEmpty ? Set(look.softnet.processors.map(\.index)) : processors
    guard let old = look.values.flowLimit, let new = ProcessorSet.adding(wanted, to: old),
      new != old
    else { return [] }
    return [
      Adjustment(
        Self.flowLimit, from: .whole(.text(old)), to: .whole(.text(new)),
        scenario: "need to limit flows that fill the backlog",
        reason: "\(drops(window)); from half of it on, packets of a flow that has more than half"
          + " of the last ones go first, so that small flows survive")
    ]
  }

  private mutating func lengthen(_ window: Window, _ look: Look) -> [Adjustment] {
    let current = look.values.backlog
    let growth = learningRate.growth(most: 8)
    let room = look.freeMemory / 16 / Self.packetSize / Int64(max(1, look.softnet.processors.count))
    let ceiling = min(Self.mostBacklog, room)
    let needed = current + max(window.burst + window.burst / 4, current / 4, Self.few)
    let wanted = min(needed, max(Int64(Double(current) * growth), current + Self.few), ceiling)
    guard wanted > current else { return [] }
    stepped = true
    return [
      Adjustment(
        Self.backlog, from: current, to: wanted, scenario: "need to lengthen the backlog",
        reason: "\(drops(window)), \(window.burst) in one burst, and empty afterwards")
    ]
  }

  /// The processor cannot keep up. A queue that stays full makes packets wait,
  /// and helps nobody; and a longer run of the network leaves tasks waiting.
  private mutating func giveUp(_ window: Window, _ look: Look) -> [Adjustment] {
    // One look too many may have met packets that were about to be gone.
    let isCertain = overload.map { look.time - $0 < 2_000_000_000 } ?? false
    overload = look.time
    guard isCertain else {
      self.window = Window()
      return []
    }
    hold.begin(at: look.time, first: times.hold.nanoseconds)
    budgetHold.begin(at: look.time, first: times.hold.nanoseconds)
    let back = [Self.backlog, Self.budget, Self.time].filter(raised.contains)
    guard let original, !back.isEmpty else { return [] }
    endBudget()
    stepped = false
    let reason = "\(drops(window)), and it never empties: no queue is long enough"
    return back.compactMap {
      lower($0, look, to: original, scenario: "the processor cannot keep up", reason: reason)
    }
  }

  // MARK: The budget

  /// Tasks wait for as long as the network runs: only where it was cut short
  /// and packets were lost, and on devices without hardware only where a longer
  /// backlog was not enough.
  private mutating func growBudget(_ window: Window, _ look: Look) -> [Adjustment] {
    let values = look.values
    guard window.squeezed > 0, look.time >= budgetHold.until, budgetSince == nil,
      let waited = look.waited, let first = window.first, let before = first.waited
    else { return [] }
    let isNext = isHardware || stepped && raised.contains(Self.backlog)
    guard isNext, values.time < Self.mostTime else { return [] }
    let interval = Int64(clamping: (look.time &- first.time) / 1000)
    waitBefore = interval > 0 ? min(100, (waited - before) * 100 / interval) : 100
    budgetSince = look
    let reason =
      "\(drops(window)), and the network was cut short \(window.squeezed) times; tasks waited"
      + " \(waitBefore ?? 0) % of the time"
    let steps = [
      (Self.budget, values.budget, min(values.budget * 2, Self.mostBudget)),
      (Self.time, values.time, min(values.time * 2, Self.mostTime)),
    ]
    return steps.filter { $0.1 < $0.2 }.map { tunable, old, new in
      Adjustment(
        tunable, from: old, to: new, scenario: "need to run the network longer", reason: reason)
    }
  }

  private mutating func endBudget() {
    budgetSince = nil
    waitBefore = nil
  }

  // MARK: Nothing is dropped

  mutating func quieten(_ look: Look) -> Decision {
    if let adjustments = relieveTasks(look) { return .adjust(adjustments) }
    let quiet = times.quiet.nanoseconds
    guard !raised.isEmpty, let original, look.time &- lastDrop >= quiet else {
      return .leave("nothing is dropped")
    }
    var adjustments: [Adjustment] = []
    let reason = "nothing was dropped for \((look.time &- lastDrop) / 1_000_000_000) s"
    for tunable in [Self.budget, Self.time, Self.flowLimit] where raised.contains(tunable) {
      adjustments += [
        lower(tunable, look, to: original, scenario: "no longer needed", reason: reason)
      ].compactMap { $0 }
    }
    endBudget()
    if raised.contains(Self.backlog), look.time &- lastDrop >= quiet * patience {
      // A quarter of what it has more than before, to see whether that is enough.
      var target = original
      let more = look.values.backlog - original.backlog
      if more / 4 > original.backlog / 4 { target.backlog += more / 4 }
      lowered = look.time
      stepped = false
      adjustments += [
        lower(Self.backlog, look, to: target, scenario: "no longer needed", reason: reason)
      ].compactMap { $0 }
    }
    return adjustments.isEmpty ? .leave(reason) : .adjust(adjustments)
  }

  /// Whether tasks wait longer since the network may run longer: then it stops.
  private mutating func relieveTasks(_ look: Look) -> [Adjustment]? {
    guard let since = budgetSince, let before = waitBefore, let then = since.waited,
      let waited = look.waited, look.time > since.time + 1_000_000_000, let original
    else { return nil }
    let interval = Int64(clamping: (look.time - since.time) / 1000)
    let share = (waited - then) * 100 / max(1, interval)
    guard share > before + 10 else { return nil }
    endBudget()
    budgetHold.begin(at: look.time, first: times.hold.nanoseconds)
    return [Self.budget, Self.time].filter(raised.contains).compactMap {
      lower(
        $0, look, to: original, scenario: "tasks wait longer",
        reason: "tasks waited for a processor \(share) % of the time since it was raised, before"
          + " \(before) %")
    }
  }

  private func lower(
    _ tunable: Tunable, _ look: Look, to target: Values, scenario: String, reason: String
  ) -> Adjustment? {
    guard let old = look.values.part(of: tunable), let new = target.part(of: tunable), old != new
    else { return nil }
    return Adjustment(tunable, from: old, to: new, scenario: scenario, reason: reason)
  }
}
