import TestSupport

/// Connections with a megabyte each that nobody reads yet, closed by their
/// senders while TCP may hold 48 MiB in all.
func measureMemorySqueeze() async throws -> [Row] {
  let saved = try await SavedSysctls("net.ipv4.tcp_mem")
  let rows: [Row]
  do {
    rows = try await squeezed()
  } catch {
    await saved.restore()
    throw error
  }
  await saved.restore()
  return rows
}

private func squeezed() async throws -> [Row] {
  try await TestNamespace.initial.set("net.ipv4.tcp_mem", "6144 8192 12288")
  let without = try await squeeze()
  let daemon = try await Daemon("--allow", "tcp-memory")
  let with = try await squeeze()
  try await daemon.stop()
  return [
    Row(
      what: "memory squeeze: connections lost of \(without.count), without",
      ours: Double(without.count - without.whole), goal: .none),
    Row(
      what: "memory squeeze: connections lost of \(with.count), with",
      ours: Double(with.count - with.whole), goal: .atMost(0)),
    Row(
      what: "memory squeeze: bytes taken with / without", ours: Double(with.sent),
      reference: Double(without.sent), unit: "bytes", goal: .atLeast(1)),
    Row(
      what: "memory squeeze: changes of tcp_mem",
      ours: Double(daemon.changes(of: "net.ipv4.tcp_mem").count), goal: .none),
  ]
}

private func squeeze() async throws -> (count: Int, sent: Int, whole: Int) {
  let namespace = try await TestNamespace("squeeze")
  try await namespace.set("net.ipv4.tcp_wmem", "4096 1048576 4194304")
  let queues = try await FullQueues(in: namespace, count: 80, bytes: 1 << 20)
  queues.closeSenders()
  let whole = await queues.drain()
  await namespace.delete()
  return (queues.count, queues.sent, whole)
}
