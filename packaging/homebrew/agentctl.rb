# packaging/build homebrew fills in the version, where the source is and what it hashes to.
class Agentctl < Formula
  desc "Supervisor for coding-agent sessions: knows when each one ended, and how"
  homepage "@HOMEPAGE@"
  url "@URL@"
  version "@VERSION@"
  sha256 "@SHA256@"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args
    system bin/"agentctl", "generate", "dist"
    man1.install Dir["dist/man1/*"], "packaging/agentctl-shim.1", "packaging/agent-ctl.1"
    bash_completion.install "dist/completions/agentctl.bash" => "agentctl"
    zsh_completion.install "dist/completions/_agentctl"
    fish_completion.install "dist/completions/agentctl.fish"
  end

  # Sessions outlive it: each has a parent process of its own.
  service do
    run [opt_bin/"agentctl", "daemon", "run"]
    keep_alive true
    environment_variables PATH: std_service_path_env
    error_log_path var/"log/agentctl.log"
  end

  test do
    ENV["AGENTCTL_HOME"] = testpath/"home"
    begin
      assert_equal "hi\n", shell_output("#{bin}/agentctl run -- sh -c 'echo hi; exit 42'", 42)
    ensure
      system bin/"agentctl", "daemon", "stop"
    end
  end
end
