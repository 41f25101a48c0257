import Kernel

/// What neigh does for single devices, and against them.
extension Neigh {
  // MARK: Churn

  /// Entries were evicted and soon made again: they are kept for as long as
  /// their users stay away, and where that is too long, none is collected
  /// below a higher first threshold.
  mutating func keep(_ table: inout Table, _ seen: Observation) -> Decision {
    if seen.gcEntries >= seen.thresholds[1] / 2 { return grow(&table, seen) }
    let pattern = Self.staleTime(of: seen.table)
    if let longer = raise(
      pattern, of: seen, usual: Self.staleTimes,
      reason: "\(churn(seen)): they are kept for longer",
      to: { max(2 * $0, $0 + seen.away / 1000 + 30) })
    {
      return .adjust([longer])
    }
    table.lastChurn = seen.time
    if table.hold == 0 { table.hold = times.keep.nanoseconds }
    let first = min(Self.powerOfTwo(from: 2 * seen.entries), seen.thresholds[1] / 2)
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

  // MARK: Probes

  /// Neighbours that answer are probed less often.
  mutating func trust(_ seen: Observation) -> Decision {
    let longer = raise(
      Self.reachableTime(of: seen.table), of: seen, usual: Self.reachableTimes,
      reason: "\(seen.count) neighbours on \(seen.device) were probed within a second, and are"
        + " where they were", to: { 2 * $0 })
    return longer.map { .adjust([$0]) } ?? .leave("they are probed as seldom as can be")
  }

  // MARK: Packets that wait for an address

  /// Packets were lost that would have arrived, since the neighbour has answered
  /// in the end: the next time there is room for them. Those for a neighbour that
  /// never answers make no events.
  mutating func lengthen(_ seen: Observation) -> Decision {
    guard seen.queue > 0, seen.lost > 0 else { return .leave("none may wait") }
    let most = max(seen.queue, min(Self.mostQueue, seen.freeMemory / 1024))
    let lost =
      "\(seen.count) packets were lost while a neighbour on \(seen.device) was asked for its"
      + " address, which took \(seen.away) ms from when the \(Words.bytes(seen.queue)) that may"
      + " wait were full"
    let growth = learningRate.growth(most: 16)
    let longer = raise(
      Self.queueLimit(of: seen.table), of: seen, usual: seen.queue...most, reason: lost,
      to: { now in
        // Of a time when it was shorter: what is there by now may be enough.
        max(now, min(seen.queue + seen.lost + seen.lost / 4, Int64(Double(seen.queue) * growth)))
      })
    return longer.map { .adjust([$0]) } ?? .leave("\(lost); as many may wait as can be")
  }

  /// A longer time or queue for a device; nil when it is as long as can be. What holds
  /// there before is not known yet: if not the usual value, the namespace says.
  private mutating func raise(
    _ pattern: Tunable, of seen: Observation, usual: ClosedRange<Int64>, reason: String,
    to longer: (Int64) -> Int64
  ) -> Adjustment? {
    let place = Place(namespace: seen.namespace, tunable: pattern.of(device: seen.device))
    var known =
      kept[place]
      ?? Kept(
        original: usual.lowerBound, current: usual.lowerBound, last: seen.time,
        hold: times.keep.nanoseconds)
    if kept.count >= Self.mostDevices { kept = kept.filter { $0.value.raised } }
    if kept.count >= Self.mostDevices, kept[place] == nil { return nil }
    known.last = seen.time
    kept[place] = known
    let wanted = min(longer(known.current), usual.upperBound)
    guard wanted > known.current else { return nil }
    return Adjustment(
      place.tunable, from: known.current, to: wanted, in: seen.namespace,
      scenario: seen.scenario.name, reason: reason)
  }

  /// Tries whether longer times are needed any more.
  mutating func release(_ table: inout Table, _ seen: Observation) -> [Adjustment] {
    var adjustments: [Adjustment] = []
    if table.raised.contains(1), seen.elapsed(since: table.lastChurn) >= table.hold {
      table.lastChurn = seen.time
      table.hold = min(table.hold * 2, Self.mostHold)
      adjustments.append(adjust(1, of: seen, to: table.original[0]))
    }
    for (place, known) in kept
    where known.raised && seen.elapsed(since: known.last) >= known.hold {
      kept[place]?.last = seen.time
      kept[place]?.hold = min(known.hold * 2, Self.mostHold)
      adjustments.append(
        Adjustment(
          place.tunable, from: known.current, to: known.original, in: place.namespace,
          scenario: seen.scenario.name,
          reason: "it has been long enough for \(seen.elapsed(since: known.last) / 1_000_000_000) s"
        ))
    }
    return adjustments
  }

  // MARK: Floods

  /// A flood of unsolicited ARP makes entries by the dozen, by a device that
  /// accepts gratuitous ARP of those it does not know.
  mutating func drop(_ seen: Observation) -> Decision {
    guard seen.accepts else {
      return .leave(
        "\(seen.count) neighbours on \(seen.device) asked for an address of this host"
          + " within a second")
    }
    guard seen.gcEntries >= seen.thresholds[0] else {
      return .leave("the table is small enough for what \(seen.device) announces")
    }
    let device = Device(namespace: seen.namespace, name: seen.device)
    if floods.count >= Self.mostDevices { floods = floods.filter { $0.value.dropping } }
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
  mutating func lift(_ seen: Observation) -> [Adjustment] {
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
}
