import Glibc
import TestSupport

/// CPU time to adopt a namespace, and memory for each of a thousand.
func measureNamespaces() async throws -> [Row] {
  let daemon = try await Daemon()
  let count = 1000
  try await Task.sleep(for: .seconds(1))
  let memory = daemon.anonymousMemory
  let cpu = daemon.cpuMicroseconds
  // Each is held by a process that does nothing else.
  let script = """
    for i in $(seq \(count)); do unshare -n sleep 600 & done
    echo "all started"
    wait
    """
  let holders = try Command(["setsid", "sh", "-c", script])
  try await holders.line(containing: "all started", upTo: 60)
  try await eventually(upTo: 60, "all namespaces to be adopted") {
    daemon.lines.filter { $0.contains("watching it") }.count >= count
  }
  let adoption = Double(daemon.cpuMicroseconds - cpu) / Double(count)
  try await Task.sleep(for: .seconds(8))  // past the first sweep
  let each = Double(daemon.anonymousMemory - memory) / Double(count)
  // The whole session of the script, by the group that setsid made.
  kill(-holders.pid, SIGKILL)
  try await holders.wait()
  try await daemon.stop()
  return [
    Row(
      what: "namespace: CPU time to adopt", ours: adoption / 1000, unit: "ms", goal: .atMost(1)),
    Row(what: "namespace: memory for each of 1,000", ours: each, unit: "KB", goal: .atMost(8)),
  ]
}
