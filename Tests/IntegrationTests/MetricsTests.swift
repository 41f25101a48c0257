import Foundation
import TestSupport
import XCTest

/// Metrics, as promtool and a Prometheus server take them.
final class MetricsTests: IntegrationTestCase {
  private static var contrib: URL {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("contrib")
  }

  private func port(of daemon: Daemon) async throws -> Int {
    let line = try await daemon.line(containing: "metrics at http://127.0.0.1:")
    return try XCTUnwrap(line.firstMatch(of: /127\.0\.0\.1:(\d+)/).flatMap { Int($0.1) })
  }

  private func run(_ arguments: String...) async throws -> (status: Int32, output: String) {
    let command = try Command(arguments)
    return (try await command.wait(), command.output)
  }

  private func sample(_ name: String, in text: String) -> Double? {
    text.split(separator: "\n").first { $0.hasPrefix(name) }
      .flatMap { Double($0.split(separator: " ").last ?? "") }
  }

  func testLongFormatsAndLimits() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer", "--metrics", "0")
    let port = try await port(of: daemon)
    let url = "http://127.0.0.1:\(port)/metrics"
    try await assertTunes(path)
    let text = try await execute("curl", "-sS", url)
    let changes = sample(
      "bpftune_changes_total{tuner=\"tcp-buffer\",tunable=\"\(Self.wmem)\"}", in: text)
    XCTAssertGreaterThan(try XCTUnwrap(changes, text), 0)
    let writes = sample("bpftune_write_latency_seconds_count{tuner=\"tcp-buffer\"}", in: text)
    XCTAssertGreaterThanOrEqual(try XCTUnwrap(writes), try XCTUnwrap(changes))
    let held = sample("bpftune_values{tuner=\"tcp-buffer\",owner=\"bpftune\"}", in: text)
    XCTAssertGreaterThan(try XCTUnwrap(held), 0)
    let file = NSTemporaryDirectory() + "bt-metrics-\(getpid())"
    try text.appending("\n").write(toFile: file, atomically: true, encoding: .utf8)
    defer { unlink(file) }
    let check = try await run("sh", "-c", "promtool check metrics < \(file)")
    XCTAssertEqual(check.status, 0, check.output)
    let open = try await execute(
      "curl", "-sSi", "-H", "Accept: application/openmetrics-text;version=1.0.0", url)
    XCTAssertTrue(open.contains("application/openmetrics-text; version=1.0.0"), open)
    XCTAssertTrue(open.hasSuffix("# EOF"), open)
    // BPF run time is there exactly while the kernel counts it.
    let saved = try await SavedSysctls("kernel.bpf_stats_enabled")
    try await TestNamespace.initial.set("kernel.bpf_stats_enabled", "1")
    let timed = try await execute("curl", "-sS", url)
    await saved.restore()
    XCTAssertTrue(timed.contains("bpftune_bpf_runs_total{program=\""), timed)
    // Nothing but metrics, to nobody but this machine.
    let other = try await execute("curl", "-sS", "http://127.0.0.1:\(port)/v1/status")
    XCTAssertTrue(other.contains("no such path"), other)
    let post = try await execute("curl", "-sS", "-X", "POST", url)
    XCTAssertTrue(post.contains("only GET"), post)
    let listens = try await execute("ss", "-Htlnp", "sport = :\(port)")
    XCTAssertTrue(listens.contains("127.0.0.1:\(port)"), listens)
    XCTAssertFalse(listens.contains("0.0.0.0:\(port)"), listens)
    // More namespaces, not more series.
    let series = { (text: String) in
      text.split(separator: "\n").filter { !$0.hasPrefix("#") }.count
    }
    var others: [TestNamespace] = []
    for number in 0..<20 { others.append(try await TestNamespace("series-\(number)")) }
    let last = try XCTUnwrap(others.last?.name)
    try await eventually("the namespaces to be seen") {
      RawClient.ask("/v1/tunables?netns=\(last)")?.hasPrefix("HTTP/1.0 200") ?? false
    }
    let crowded = try await execute("curl", "-sS", url)
    // A tunable may have been changed meanwhile that had not been before.
    XCTAssertLessThanOrEqual(series(crowded), series(text) + 5)
    for other in others { await other.delete() }
    try await daemon.stop()
    await path.close()
  }

  func testBadAddresses() async throws {
    for address in ["x", "70000", "1.2.3.4", "::1:9273"] {
      let result = try await run(Products.path("bpftune"), "--metrics", address)
      XCTAssertEqual(result.status, 64, "\(address): \(result.output)")
    }
    let taken = try await Daemon("--allow", "tcp-buffer", "--metrics", "[::1]:0")
    _ = try await taken.line(containing: "metrics at http://")
    try await taken.stop()
    let foreign = try await run(
      Products.path("bpftune"), "--foreground", "--metrics", "192.0.2.1:9273")
    XCTAssertEqual(foreign.status, 1, foreign.output)
    XCTAssertTrue(foreign.output.contains("192.0.2.1:9273"), foreign.output)
  }

  func testAlertRules() async throws {
    let rules = Self.contrib.appendingPathComponent("prometheus")
    for arguments in [
      ["check", "rules", "bpftune.rules.yml"], ["test", "rules", "bpftune.rules.test.yml"],
      ["check", "config", "prometheus.yml"],
    ] {
      let last = rules.appendingPathComponent(arguments[2]).path
      let result = try await run("promtool", arguments[0], arguments[1], last)
      XCTAssertEqual(result.status, 0, result.output)
    }
  }

  /// A Prometheus server scrapes the daemon; it answers a query, every
  /// expression of the dashboard, and has the alert rules.
  func testLongPrometheusServer() async throws {
    let path = try await limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer", "--metrics", "0")
    let port = try await port(of: daemon)
    try await assertTunes(path)
    let place = NSTemporaryDirectory() + "bt-prometheus-\(getpid())"
    try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: place) }
    let rules = Self.contrib.appendingPathComponent("prometheus/bpftune.rules.yml").path
    let configuration = """
      global:
        scrape_interval: 1s
        evaluation_interval: 1s
      rule_files: ["\(rules)"]
      scrape_configs:
        - job_name: bpftune
          static_configs: [{targets: ["127.0.0.1:\(port)"]}]
      """
    try configuration.write(toFile: place + "/p.yml", atomically: true, encoding: .utf8)
    let listen = "127.0.0.1:\(20000 + Int(getpid()) % 20000)"
    let server = try Command([
      "prometheus", "--config.file=\(place)/p.yml", "--storage.tsdb.path=\(place)/data",
      "--web.listen-address=\(listen)", "--log.level=warn",
    ])
    defer { server.signal(SIGKILL) }
    func ask(_ query: String) async throws -> [[String: Any]]? {
      let curl = try Command([
        "curl", "-sS", "--data-urlencode", "query=\(query)", "http://\(listen)/api/v1/query",
      ])
      guard try await curl.wait() == 0,
        let reply = try JSONSerialization.jsonObject(with: Data(curl.output.utf8))
          as? [String: Any], reply["status"] as? String == "success"
      else { return nil }
      return (reply["data"] as? [String: Any])?["result"] as? [[String: Any]]
    }
    try await eventually(upTo: 30, "a scrape; Prometheus says \(server.output)") {
      let changes = try? await ask("bpftune_changes_total{tunable=\"\(Self.wmem)\"} > 0")
      return !(changes ?? []).isEmpty
    }
    let up = try await ask("up{job=\"bpftune\"} == 1")
    XCTAssertEqual(up?.count, 1)
    let quantile = try await ask(
      "histogram_quantile(0.5, sum by (le) (bpftune_write_latency_seconds_bucket))")
    XCTAssertEqual(quantile?.count, 1)
    let dashboard = try Data(
      contentsOf: Self.contrib.appendingPathComponent("grafana/bpftune.json"))
    let json = try JSONSerialization.jsonObject(with: dashboard) as? [String: Any]
    let panels = try XCTUnwrap(json?["panels"] as? [[String: Any]])
    XCTAssertGreaterThan(panels.count, 10)
    for panel in panels {
      for target in panel["targets"] as? [[String: Any]] ?? [] {
        let query = try XCTUnwrap(target["expr"] as? String)
        let result = try await ask(query.replacing("$instance", with: ".*"))
        XCTAssertNotNil(result, "of the dashboard: \(query)")
      }
    }
    // The names that the dashboard and the rules use are names that there are.
    let names = try await execute("curl", "-sS", "http://127.0.0.1:\(port)/metrics")
    let used =
      try String(contentsOfFile: rules, encoding: .utf8)
      + String(decoding: dashboard, as: UTF8.self)
    for match in used.matches(of: /\b(?:bpftune|process)_[a-z_]+\b/) {
      let name = String(match.0)
      if name.hasPrefix("bpftune_bpf_") { continue }  // only while the kernel counts
      let base = name.replacing("_bucket", with: "")
      XCTAssertTrue(names.contains("# TYPE \(base) "), "no metric \(name)")
    }
    server.signal(SIGTERM)
    try await server.wait()
    try await daemon.stop()
    await path.close()
  }
}
