import Kernel
import State

/// What tcp-memory does while pressure is near and more of `tcp_mem` does not end
/// it.
extension TCPMemory {
  /// A tunable in a namespace.
  struct Place: Hashable {
    let namespace: NamespaceID
    let tunable: Tunable
  }

  /// What is changed for the time of pressure.
  struct Relief {
    /// What each held before the first change, and holds now.
    private(set) var changed: [Place: (original: Int64, current: Int64)] = [:]
    /// Namespaces that have been looked at since it began.
    private(set) var met: Set<NamespaceID> = []
    private(set) var isUnderWay = false
    /// It has begun, and nothing has been looked at.
    var isNew: Bool { met.isEmpty }
    private var calmSince: UInt64?
    /// What cannot be changed, such as what this kernel does not have, or what
    /// an administrator holds: not tried again before the next pressure.
    private var barred: Set<Place> = []
    /// Attackers may make namespaces without end.
    static let mostPlaces = 4096

    mutating func begin(_ time: UInt64) {
      calmSince = nil
      guard !isUnderWay else { return }
      isUnderWay = true
      met = []
      barred = []
    }

    /// What a daemon before this one changed, and has not put back.
    mutating func recall(_ holding: Holding, at time: UInt64) {
      let tunables = [
        TCPMemory.noMetrics, TCPMemory.noThreshold, TCPMemory.onlySinglePages,
        TCPBuffer.sendMaximum, TCPBuffer.receiveMaximum,
      ]
      guard tunables.contains(holding.tunable), let original = holding.original.maximum,
        let current = holding.written.maximum
      else { return }
      begin(time)
      let place = Place(namespace: holding.namespace, tunable: holding.tunable)
      changed[place] = (original, current)
    }

    mutating func end() {
      isUnderWay = false
      calmSince = nil
      changed = [:]
      met = []
    }

    /// Since when it has been calm; starts the clock, or stops it.
    mutating func calm(_ isCalm: Bool, _ time: UInt64) -> UInt64 {
      calmSince = isCalm ? calmSince ?? time : nil
      return calmSince ?? time
    }

    /// Whether the namespace was looked at before.
    mutating func meet(_ namespace: NamespaceID) -> Bool {
      guard met.count < Self.mostPlaces else { return met.contains(namespace) }
      return !met.insert(namespace).inserted
    }

    func mayChange(_ place: Place) -> Bool {
      !barred.contains(place) && (changed[place] != nil || changed.count < Self.mostPlaces)
    }

    mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
      guard isUnderWay, let namespace = adjustment.namespace else { return }
      let place = Place(namespace: namespace, tunable: adjustment.tunable)
      switch outcome {
      case .applied:
        let original = changed[place]?.original ?? adjustment.assumed.number
        let current = adjustment.wanted.number
        changed[place] = original == current ? nil : (original, current)
      case .refused:
        // Someone else has set it, or the namespace is gone.
        changed[place] = nil
        if barred.count < Self.mostPlaces { barred.insert(place) }
      case .advised:
        if barred.count < Self.mostPlaces { barred.insert(place) }
      }
    }
  }

  /// No buffer's maximum goes below this: bytes.
  private static let leastBuffer: Int64 = 65536

  /// A namespace was looked at while pressure is near, or for the first time.
  mutating func relieve(_ seen: Observation) -> Decision {
    guard relief.isUnderWay else { return .leave("there is no pressure that lasts") }
    let isKnown = relief.meet(seen.namespace)
    _ = relief.calm(seen.pages < seen.limits[0], seen.time)
    var adjustments = keepNothing(seen)
    // In the second round it is known how many namespaces there are.
    if isKnown, seen.isNearEnd { adjustments += shrink(seen) }
    guard adjustments.isEmpty else { return .adjust(adjustments) }
    return .leave("\(reason(seen)); this namespace holds \(Words.bytes(held(seen)))")
  }

  /// Times and thresholds that connections learn under pressure would slow those
  /// that come after it; and large pages are the first to run out.
  private func keepNothing(_ seen: Observation) -> [Adjustment] {
    [Self.noMetrics, Self.noThreshold, Self.onlySinglePages].compactMap { tunable in
      let place = Place(namespace: seen.namespace, tunable: tunable)
      guard relief.changed[place] == nil, relief.mayChange(place) else { return nil }
      // One that is for the whole machine is changed but once.
      if tunable.scope == .global,
        relief.changed.keys.contains(where: { $0.tunable == tunable }) || relief.met.count > 1
      {
        return nil
      }
      return Adjustment(
        tunable, from: 0, to: 1, in: seen.namespace, scenario: Scenario.near.name,
        reason: "\(reason(seen)); until that is over")
    }
  }

  private func held(_ seen: Observation) -> Int64 {
    seen.sending.bytes.addingReportingOverflow(seen.receiving.bytes).partialValue
  }

  /// Smaller maxima in a namespace that holds more than its share.
  private func shrink(_ seen: Observation) -> [Adjustment] {
    let held = held(seen)
    let total = seen.pages.multipliedReportingOverflow(by: Memory.pageSize).partialValue
    guard held > 0, held >= total / Int64(max(relief.met.count, 2)) else { return [] }
    return [
      (TCPBuffer.sendMaximum, seen.sending, "sending"),
      (TCPBuffer.receiveMaximum, seen.receiving, "receiving"),
    ].compactMap { tunable, use, doing in
      let place = Place(namespace: seen.namespace, tunable: tunable)
      guard use.bytes >= held / 4, use.sockets > 0, relief.mayChange(place) else { return nil }
      // What each socket may hold for the namespace to hold its share of what
      // there is below the point of pressure; no more than half at a time.
      let share = Double(use.bytes) / Double(use.sockets)
      let fair = Int64(share * Double(seen.limits[1]) / Double(max(seen.pages, 1)))
      let wanted = max(min(fair, use.limit / 2), use.limit / 8, Self.leastBuffer) & ~4095
      guard wanted < use.limit else { return nil }
      return Adjustment(
        tunable, from: use.limit, to: wanted, in: seen.namespace,
        scenario: Scenario.exhausted.name,
        reason: "\(reason(seen)); \(use.sockets) sockets here hold \(Words.bytes(use.bytes))"
          + " for \(doing); until that is over")
    }
  }

  /// Pressure is not near any more.
  mutating func endRelief(_ seen: Observation) -> Decision {
    let since = relief.calm(seen.pages < seen.limits[0], seen.time)
    guard seen.pages < seen.limits[0] else {
      return .leave("TCP holds \(seen.pages) pages, and the kernel saves from \(seen.limits[0])")
    }
    guard seen.time &- since >= times.calm.nanoseconds else {
      return .leave("TCP holds \(seen.pages) pages, but not for long")
    }
    let adjustments = relief.changed.map { place, values in
      Adjustment(
        place.tunable, from: values.current, to: values.original, in: place.namespace,
        scenario: "TCP memory pressure over",
        reason: "TCP holds \(seen.pages) pages of \(seen.limits[0]): back to what it was")
    }
    relief.end()
    return adjustments.isEmpty ? .leave("the pressure is over") : .adjust(adjustments)
  }
}
