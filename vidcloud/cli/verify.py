"""``vidcloud verify``."""

import json
from pathlib import Path

import click

from vidcloud.cli.options import json_option
from vidcloud.errors import UsageError, VerifyError


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--proof", "proof_file", type=click.Path(path_type=Path), help="The proof.  [default: OUTPUT.proof.json]")
@click.option(
    "--recompute", is_flag=True, help="Filter the input again, serially on one thread, and compare each frame."
)
@click.option("--input", "source", type=click.Path(path_type=Path), help="With --recompute: where the input is now.")
@json_option
def verify(output: Path, proof_file: Path | None, recompute: bool, source: Path | None, as_json: bool) -> None:
    """Hold OUTPUT against its proof: frames, timestamps, audio, and pixels where the codec is lossless."""
    from vidcloud import proof
    from vidcloud import verify as verify_module

    if not output.is_file():
        raise UsageError(f"no output {output}")
    told = proof.read(proof_file or Path(proof.proof_path(str(output))))
    findings = verify_module.check_output(output, told)
    if recompute:
        findings.append(verify_module.recompute(told, source))
    if as_json:
        click.echo(json.dumps({"ok": all(f.ok for f in findings), "checks": [f.__dict__ for f in findings]}))
    else:
        for f in findings:
            click.echo(f"{'ok    ' if f.ok else 'FAILED'}  {f.what}: {f.detail}")
    failed = [f.what for f in findings if not f.ok]
    if failed:
        raise VerifyError(f"{output} is not what its proof says: {', '.join(failed)} differ")
