import Kernel

/// How neigh sizes a table.
extension Neigh {
  // MARK: Growing

  func grow(_ table: inout Table, _ seen: Observation) -> Decision {
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
    guard wanted > hard + hard / 8 else {
      return .hold(held(seen, table, memory: memory), about: seen.table.rawValue)
    }

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

  func adjust(_ number: Int, of seen: Observation, to wanted: Int64) -> Adjustment {
    Adjustment(
      Self.threshold(number, of: seen.table), from: seen.thresholds[number - 1], to: wanted,
      scenario: seen.scenario.name, reason: reason(seen))
  }

  private func reason(_ seen: Observation) -> String {
    var text =
      "\(seen.table.rawValue), which all namespaces share, holds \(seen.gcEntries)"
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

  mutating func shrink(_ table: inout Table, _ seen: Observation) -> Decision {
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
}
