import Kernel

/// How conntrack sizes the table.
extension Conntrack {
  public mutating func decide(_ seen: Observation) -> Decision {
    guard seen.limit > 0, seen.limit <= Int64(Int32.max) else {
      return .leave("connections are not tracked here")
    }
    guard var base = bases[seen.namespace] else {
      // A report of a namespace that has never dropped is about what is raised.
      guard seen.scenario != .look else { return settle(seen) }
      guard seen.scenario == .drop || seen.isFull else {
        return raised.isEmpty ? .leave("there is room") : settle(seen)
      }
      forgetOldest()
      // Refused before, for all that is known, but for the last one.
      bases[seen.namespace] = Base(
        refused: seen.refused, evicted: seen.evicted, time: seen.time,
        isOpen: seen.scenario == .drop, isFull: seen.isFull)
      return .leave("netfilter drops packets, or the table is full; what for is looked at")
    }
    let refused = seen.refused - base.refused
    let evicted = seen.evicted - base.evicted
    if seen.scenario == .drop, refused == 0, evicted == 0, !base.isOpen {
      base.isOpen = true
      base.time = seen.time
      bases[seen.namespace] = base
      return .leave("netfilter drops packets; what for is looked at")
    }
    bases[seen.namespace] = Base(
      refused: seen.refused, evicted: seen.evicted, time: seen.time, isOpen: false,
      isFull: seen.isFull)
    guard refused > 0 || evicted > 0 && seen.isFull else {
      if seen.scenario != .drop, !raised.isEmpty { return settle(seen) }
      return .leave(
        seen.scenario == .poll
          ? "no connection was refused"
          : "no connection was refused: packets are dropped by a rule")
    }
    needed = seen.time
    // Of those that may be evicted, are most of use to someone?
    let areAnswered = seen.sample.evictable > 0 && 2 * seen.sample.answered >= seen.sample.evictable
    guard areAnswered || evicted <= 4 * refused else {
      return .hold(
        "the table of connections is full in \(seen.namespace) (\(seen.count) of \(seen.limit)), and"
          + " is not grown: \(evicted) connections made room for as many more, and most that could"
          + " are not known to be answered (a flood looks like this)",
        about: "flood")
    }
    return grow(seen, refused, evicted)
  }

  // MARK: Growing

  private func grow(_ seen: Observation, _ refused: Int64, _ evicted: Int64) -> Decision {
    let memory = seen.count + seen.freeMemory / 16 / Self.entrySize
    let step = Int64(Double(seen.limit) * learningRate.growth(most: 4))
    let wanted = min(step, memory, Self.most)
    guard wanted > seen.limit + seen.limit / 8 else {
      return .hold(
        "the table of connections is full in \(seen.namespace) (\(seen.count) of \(seen.limit)), and"
          + " is not grown: "
          + (memory < Self.most
            ? "free memory (\(Words.bytes(seen.freeMemory))) is for no more than \(memory) of"
              + " \(Self.entrySize) bytes each"
            : "\(Self.most) are as many as it gets"),
        about: "bound")
    }
    var adjustments = [
      Adjustment(
        Self.limit, from: seen.limit, to: wanted,
        scenario: "need to grow table of connections", reason: reason(seen, refused, evicted))
    ]
    // As many connections a chain as before.
    let chains = Self.chains(seen.buckets * wanted / seen.limit)
    if seen.buckets > 0, chains > seen.buckets {
      adjustments.append(
        Adjustment(
          Self.buckets, from: seen.buckets, to: chains,
          scenario: "need to grow table of connections",
          reason: "as many connections a chain as before"))
    }
    return .adjust(adjustments)
  }

  /// As many chains as the kernel makes of it.
  static func chains(_ count: Int64) -> Int64 {
    (max(count, 1) + chainsInPage - 1) / chainsInPage * chainsInPage
  }

  private func reason(_ seen: Observation, _ refused: Int64, _ evicted: Int64) -> String {
    "\(refused) new connections were refused and \(evicted) evicted for others in"
      + " \(seen.namespace), which has \(seen.count) of"
      + " \(seen.limit); the limit is set for all namespaces, of this one, with \(Self.entrySize)"
      + " bytes an entry"
  }

  // MARK: Going back

  private mutating func settle(_ seen: Observation) -> Decision {
    guard let entry = raised[Self.limit] else {
      let chains = raised[Self.buckets].map { [back(Self.buckets, $0)] } ?? []
      return chains.isEmpty ? .leave("nothing is raised") : .adjust(chains)
    }
    if seen.count > entry.original / 2 { needed = seen.time }
    guard seen.elapsed(since: needed) >= times.quiet.nanoseconds else {
      return .leave("no connection is refused, but not for long enough")
    }
    guard let surveyed, surveyed.time == seen.time else { return .survey }
    guard surveyed.sum <= entry.original / 2 else {
      needed = seen.time
      return .leave("\(surveyed.sum) connections are tracked")
    }
    // Not tried again at once, whatever becomes of it.
    needed = seen.time
    return .adjust(
      [back(Self.limit, entry)] + (raised[Self.buckets].map { [back(Self.buckets, $0)] } ?? []))
  }

  private func back(_ tunable: Tunable, _ entry: Raised) -> Adjustment {
    Adjustment(
      tunable, from: entry.current, to: entry.original,
      scenario: "table of connections larger than needed",
      reason: "no connection was refused for a while, and \(surveyed?.sum ?? 0) are tracked")
  }

  /// Makes room for one more namespace; those that drop by a rule go first.
  private mutating func forgetOldest() {
    guard bases.count >= Self.mostNamespaces,
      let oldest = bases.min(by: {
        ($0.value.isFull ? 1 : 0, $0.value.time) < ($1.value.isFull ? 1 : 0, $1.value.time)
      })
    else { return }
    bases[oldest.key] = nil
  }
}
