import BenchLoop
import Foundation
import TestSupport

/// What the hook on dropped packets costs for those that are dropped for reasons
/// that no tuner cares about: 500,000 a second of a protocol that nobody knows.
///
/// The kernel's statistics read a clock around each program, which takes longer
/// than the program: one that does nothing is measured beside it. What all of it
/// costs, the way into the program too, is how much longer a drop takes.
func measureDrops() async throws -> [Row] {
  let hook = "drop_watch"
  let empty = "empty_hook"
  let namespace = try await TestNamespace("drops")
  let saved = try await SavedSysctls("kernel.bpf_stats_enabled")

  /// Packets that were dropped, a second.
  func drop(_ rate: Int, seconds: Int) async throws -> Double {
    let output = try await execute(
      Products.path("packet-sender"), "unknown", "lo", "\(rate)", "\(seconds)",
      netns: namespace.name)
    let numbers = output.split(separator: " ").compactMap { Double($0) }
    guard numbers.count == 2 else { throw Command.Failure("packet-sender said: \(output)") }
    return numbers[0] / numbers[1] * 1e6
  }

  let others = BPFPrograms.ids()
  let daemon = try await Daemon()
  let nothing = try emptyHook()
  let ours = BPFPrograms.ids().subtracting(others)
  try await TestNamespace.initial.set("kernel.bpf_stats_enabled", "1")
  let seconds = 3
  let before = BPFPrograms.runTime(of: ours)
  let rate: Double
  do {
    rate = try await drop(500_000, seconds: seconds)
  } catch {
    close(nothing)
    await saved.restore()
    throw error
  }
  let after = BPFPrograms.runTime(of: ours)
  close(nothing)
  await saved.restore()
  let reached = daemon.lines.count { $0.contains("packets from lo") }
  try await daemon.stop()

  func calls(_ name: String) -> Double {
    Double((after[name]?.calls ?? 0) - (before[name]?.calls ?? 0))
  }
  /// Nanoseconds a call.
  func time(_ name: String) -> Double {
    let total = (after[name]?.nanoseconds ?? 0) - (before[name]?.nanoseconds ?? 0)
    return Double(total) / max(1, calls(name))
  }

  // As fast as the kernel drops them, a drop in nanoseconds: with the daemon,
  // with an empty program, with neither. A B C C B A.
  enum Beside: CaseIterable { case daemon, empty, nothing }
  func cost(beside: Beside) async throws -> Double {
    let daemon = beside == .daemon ? try await Daemon() : nil
    let hook = beside == .empty ? try emptyHook() : -1
    let rate = try await drop(100_000_000, seconds: 2)
    if beside == .empty { close(hook) }
    try await daemon?.stop()
    return 1e9 / rate
  }
  var costs: [Beside: [Double]] = [:]
  for round in 0..<8 {
    for beside in round % 2 == 0 ? Beside.allCases : Beside.allCases.reversed() {
      costs[beside, default: []].append(try await cost(beside: beside))
    }
  }
  let typical = costs.mapValues { median($0) }
  let without = typical[.nothing] ?? 0
  await namespace.delete()
  return [
    Row(
      what: "drops: for other reasons, a second", ours: rate, unit: "1/s", goal: .atLeast(490_000)),
    Row(
      what: "drops: the hook ran, of 100 drops",
      ours: calls(hook) / (rate * Double(seconds)) * 100, goal: .atLeast(99)),
    Row(
      what: "drops: BPF run time a drop, ours / an empty program", ours: time(hook),
      reference: time(empty), unit: "ns", goal: .none),
    Row(
      what: "drops: the same without the clock's", ours: time(hook) - time(empty), unit: "ns",
      goal: .atMost(50)),
    Row(what: "drops: events that reach user space", ours: Double(reached), goal: .atMost(0)),
    Row(
      what: "drops: time a drop, with / without", ours: typical[.daemon] ?? 0,
      reference: without, unit: "ns", goal: .none),
    Row(
      what: "drops: what is added to it, ours / an empty program",
      ours: (typical[.daemon] ?? 0) - without, reference: (typical[.empty] ?? 0) - without,
      unit: "ns", goal: .none),
  ]
}

/// A descriptor that keeps an empty program attached.
private func emptyHook() throws -> Int32 {
  let hook = empty_hook_attach("kfree_skb")
  guard hook >= 0 else {
    throw Command.Failure("an empty program: \(String(cString: strerror(errno)))")
  }
  return hook
}
