import TestSupport

private let version4 = "net.ipv4.neigh.default.gc_thresh"
private let version6 = "net.ipv6.neigh.default.gc_thresh"

/// 200,000 entries in each neighbour table, added as fast as the kernel takes
/// them from two namespaces: with the daemon, which raises the thresholds
/// meanwhile, against thresholds raised by hand before.
func measureNeighbours() async throws -> [Row] {
  let saved = try await SavedSysctls(
    version4 + "2", version4 + "3", version6 + "2", version6 + "3")
  var with: [Double] = []
  var byHand: [Double] = []
  var refused = 0
  var changes = 0
  var events = 0
  do {
    for pair in 0..<6 {
      for daemonRuns in pair % 2 == 0 ? [true, false] : [false, true] {
        if daemonRuns {
          let daemon = try await Daemon("--allow", "neigh", "--rollback")
          let (rate, missed) = try await fill()
          with.append(rate)
          refused += missed
          let lines = daemon.lines.filter { $0.contains("neigh") }
          let raised = lines.count { $0.contains("gc_thresh") && $0.contains(" -> ") }
          let left = lines.count { $0.contains("neigh: ") && $0.contains("nothing to change") }
          changes = max(changes, raised)
          // Each event changes the third threshold first, or nothing.
          events = max(
            events, lines.count { $0.contains("gc_thresh3 ") && $0.contains(" -> ") } + left)
          try await daemon.stop()
        } else {
          for name in [version4 + "3", version4 + "2", version6 + "3", version6 + "2"] {
            try await TestNamespace.initial.set(name, "1000000")
          }
          byHand.append(try await fill().rate)
        }
        await saved.restore()
      }
    }
  } catch {
    await saved.restore()
    throw error
  }
  return [
    Row(
      what: "neighbours: added a second, ours / raised by hand before", ours: median(with),
      reference: median(byHand), unit: "1/s", goal: .atLeast(0.95)),
    Row(what: "neighbours: refused, in all runs", ours: Double(refused), goal: .atMost(0)),
    Row(
      what: "neighbours: changes to reach 200,000 in both tables", ours: Double(changes),
      goal: .atMost(24)),
    Row(
      what: "neighbours: events that reach user space", ours: Double(events),
      goal: .atMost(Double(changes) + 10)),
  ]
}

/// Entries a second, and how many were refused.
private func fill() async throws -> (rate: Double, refused: Int) {
  let one = try await Neighbours.namespace("one")
  let two = try await Neighbours.namespace("two")
  let results = try await Neighbours.add(
    [one, two].flatMap { namespace in
      ["10.1.0.0", "fd77::1:0:0"].map { first in
        Neighbours.Job(namespace, first: first, count: 100_000)
      }
    })
  for namespace in [one, two] { await namespace.delete() }
  try await Neighbours.empty()
  let added = results.map(\.added).reduce(0, +)
  let longest = results.map(\.microseconds).max() ?? 1
  return (Double(added) / Double(longest) * 1e6, results.map(\.refused).reduce(0, +))
}
