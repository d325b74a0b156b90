"""Workflows on the networks that the papers published: wired and stamped here, run by whoever has the files."""

from __future__ import annotations

from workflow_graph import Node, Output, Stamps, Workflow

ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
SD_VAE = "https://huggingface.co/stabilityai/sd-vae-ft-mse-original/resolve/main"
VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
LABEL = "207"
FOLDER = "diffusion_models"
PPAP = "https://s3.ap-northeast-2.amazonaws.com/riiid-st.airesearch/CVPR2023_ppap_ckpt/ResNet50/ppap_5"
EXPERTS, EACH = "ppap-resnet50/*_max5.ckpt", [f"{n}_max5.ckpt" for n in range(5)]
RESNET = "resnet50.safetensors"
RESNET_NOTE = (
    f"- torchvision's [resnet50](https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet50"
    f".html), IMAGENET1K_V2, as *models/guides/{RESNET}*: the help page of Import Experts has the lines that write it"
)
DDIM, DDPM, HEUN = ("euler", "ddim25"), ("ddpm", "250"), ("heun", "32")  # sampler and respacing, as the papers' code


class Published(Workflow):
    """A workflow on published networks: what it needs is named, with links, in its note and in its loaders."""

    def denoiser(self, lane: int, column: int, file: str, url: str, title: str, **values: Output) -> Node:
        node = self.add("GuidanceLoadDenoiser", lane, column, title=title, size=(360, 100), name=file, **values)
        return needs(node, file, url, FOLDER)

    def guide(self, lane: int, column: int, file: str, url: str) -> Node:
        node = self.add("GuidanceLoadGuide", lane, column, size=(360, 80), name=file)
        return needs(node, file, url, "guides")

    def clamp(self, lane: int, column: int, model: Output) -> Output:
        """The MODEL with its estimate kept in the range of pictures, as ADM's, P2's and PPAP's code does."""
        return self.add("GuidanceClamp", lane, column, model=model)["MODEL"]

    def picture(
        self, lane: int, column: int, model: Output, asked: Output, vae: Output, side: int, prefix: str,
        run: tuple[str, str], temperature: float = 1.0,
    ) -> Output:
        """A run as the paper's code makes it, and the saved pictures, which come back.

        asked: the class, or none. run: the sampler and the respacing.
        """
        spaced = self.add("GuidancePaperSigmas", lane, column, model=model, respacing=run[1], temperature=temperature)
        latents = self.add("EmptyLatentImage", lane, column, width=side, height=side, batch_size=4)
        sampler = self.add("KSamplerSelect", lane, column, sampler_name=run[0])
        sampled = self.add(
            "SamplerCustom", lane, column + 1, model=spaced["MODEL"], add_noise=True, noise_seed=7, cfg=1.0,
            positive=asked, negative=asked, sampler=sampler["SAMPLER"], sigmas=spaced["SIGMAS"],
            latent_image=latents["LATENT"],
        )
        decoded = self.add("VAEDecode", lane, column + 1, samples=sampled["output"], vae=vae)
        self.add(
            "SaveImage", lane, column + 2, size=(330, 330), images=decoded["IMAGE"],
            filename_prefix=f"guidance/{prefix}",
        )
        return decoded["IMAGE"]


def needs(node: Node, file: str, url: str, folder: str) -> Node:
    """Write into a loader what file it needs, at its address; the page offers to fetch it."""
    node.data["properties"]["models"] = [{"name": file, "url": f"{url}/{file}", "directory": folder}]
    return node


def made_by_hand(node: Node, file: str, folder: str) -> Node:
    """Write into a loader what it needs that no address gives as it is; the note says where it comes from."""
    node.data["properties"].setdefault("guidance_needs", []).append({"name": file, "directory": folder})
    return node


def adm_classifier(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "adm_classifier", "ADM's ImageNet models, unconditional and conditional, steered by its noisy classifier.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## ADM classifier guidance\nNeeds three files (OpenAI, MIT licence):\n\n"
        f"- {ADM}/256x256_diffusion_uncond.pt and\n- {ADM}/256x256_diffusion.pt in *models/diffusion_models*\n"
        f"- {ADM}/256x256_classifier.pt in *models/guides*\n\nScales of the paper for 25 DDIM steps (2105.05233, "
        "Tables 4 and 14): 10 for the unconditional model, 2.5 for the conditional one. Class numbers are ImageNet's: "
        "207 is a golden retriever.\n\n**Paper Sigmas** and **Clamp** make the run that of the paper's code. For its "
        "250 steps: respacing 250, sampler ddpm, form = mean shift, scales 10 and 1.",
        (360, 440),
    )
    guide = made.guide(left, 0, "256x256_classifier.pt", ADM)
    for title, file, label, scale in (
        ("Unconditional", "256x256_diffusion_uncond.pt", "", 10.0), ("Conditional", "256x256_diffusion.pt", LABEL, 2.5)
    ):
        lane = made.lane(title)
        main = made.denoiser(lane, 1, file, ADM, f"ADM 256, {title.lower()}")
        asked = made.add("GuidanceClassLabel", lane, 1, model=main["MODEL"], label=label)["CONDITIONING"]
        steered = made.add(
            "GuidanceClassifier", lane, 2, model=made.clamp(lane, 2, main["MODEL"]), guide=guide["guide"], label=LABEL,
            scale=scale, at="noisy input",
        )
        made.picture(lane, 3, steered["MODEL"], asked, main["VAE"], 256, f"adm_{title.lower()}", DDIM)
    return made.build()


def edm2_autoguidance(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "edm2_autoguidance", "EDM2-S guided by a less trained EDM2-XS, with the weights of the autoguidance paper.",
        object_info, stamps,
    )
    left = made.lane("Files")
    main_file, weak_file = "edm2-img512-s-2147483-0.070.pkl", "edm2-img512-xs-0134217-0.125.pkl"
    made.note(
        left, 0,
        "## Autoguidance, the paper's own pair\nNeeds two files in *models/diffusion_models* (NVIDIA, CC BY-NC-SA 4.0: "
        f"not for commercial use):\n\n- {EDM2}/{main_file}\n- {EDM2}/{weak_file}\n\nand a Stable Diffusion VAE in "
        f"*models/vae*: {SD_VAE}/{VAE}\n\nWeight 2.1, Heun, 32 steps: FID 1.34 on ImageNet 512 (2406.02507, Table 1). "
        "The help page of Load Denoiser has the other pairs.",
        (360, 380),
    )
    vae = needs(made.add("VAELoader", left, 0, vae_name=VAE), VAE, SD_VAE, "vae")
    lane = made.lane("EDM2-S guided by EDM2-XS")
    main = made.denoiser(lane, 1, main_file, EDM2, "EDM2-S", vae=vae["VAE"])
    weak = made.denoiser(lane, 1, weak_file, EDM2, "EDM2-XS: the guide", vae=vae["VAE"])
    asked = made.add("GuidanceClassLabel", lane, 2, model=main["MODEL"], label=LABEL)["CONDITIONING"]
    guided = made.add("GuidanceAutoguidance", lane, 2, model=main["MODEL"], guide_model=weak["MODEL"], weight=2.1)
    made.picture(lane, 3, guided["MODEL"], asked, main["VAE"], 512, "edm2_autoguidance", HEUN)
    return made.build()


def p2_faces(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "p2_faces", "Faces of the P2-weighting paper's unconditional model, with many and with few steps.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## P2 weighting\nNeeds one file in *models/diffusion_models*: ffhq_p2.pt, from the links in the "
        "[README of P2-weighting](https://github.com/jychoi118/P2-weighting) (the authors state no licence of the "
        "weights; FFHQ is CC BY-NC-SA).\n\nThe model has no classes. P2 changed how it was trained (2204.00227); "
        "sampling is ADM's: its steps (**Paper Sigmas**) and its **Clamp**.",
        (360, 280),
    )
    main = made_by_hand(
        made.add("GuidanceLoadDenoiser", left, 0, title="P2, FFHQ 256", size=(360, 100), name="ffhq_p2.pt"),
        "ffhq_p2.pt", FOLDER,
    )
    clamped = made.clamp(left, 0, main["MODEL"])
    asked = made.add("GuidanceClassLabel", left, 0, model=main["MODEL"], label="")["CONDITIONING"]
    for title, prefix, run in (("250 steps, DDPM", "p2_250", DDPM), ("25 steps, DDIM", "p2_25", DDIM)):
        made.picture(made.lane(title), 1, clamped, asked, main["VAE"], 256, prefix, run)
    return made.build()


def adm_upsampler(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "adm_upsampler", "ADM's two stages: a picture of 64 by 64, then its upsampler to 256 by 256.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## ADM upsampling\nNeeds two files in *models/diffusion_models* (OpenAI, MIT licence):\n\n"
        f"- {ADM}/64x64_diffusion.pt\n- {ADM}/64_256_upsampler.pt\n\n**Low Resolution** gives the second model the "
        "small picture. Both are told the same class.",
        (360, 280),
    )
    lane = made.lane("64 by 64")
    small = made.denoiser(lane, 1, "64x64_diffusion.pt", ADM, "ADM 64")
    asked = made.add("GuidanceClassLabel", lane, 1, model=small["MODEL"], label=LABEL)["CONDITIONING"]
    picture = made.picture(
        lane, 2, made.clamp(lane, 1, small["MODEL"]), asked, small["VAE"], 64, "adm_64", DDIM
    )
    lane = made.lane("256 by 256")
    large = made.denoiser(lane, 1, "64_256_upsampler.pt", ADM, "ADM upsampler")
    seen = made.add("GuidanceLowResolution", lane, 1, conditioning=asked, image=picture)["CONDITIONING"]
    made.picture(lane, 2, made.clamp(lane, 1, large["MODEL"]), seen, large["VAE"], 256, "adm_64_256", DDIM)
    return made.build()


def edm2_files(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "edm2_files", "An EDM2 snapshot as safetensors, and an averaging width of your own from raw snapshots.",
        object_info, stamps,
    )
    left = made.lane("Files")
    snapshots = [f"edm2-img512-xs-0134217-{std}.pkl" for std in ("0.050", "0.100")]
    raw = f"{EDM2.rsplit('/', 1)[0]}/raw-snapshots/edm2-img512-xs"
    listed = "\n".join(f"- {raw}/{name}" for name in snapshots)
    made.note(
        left, 0,
        "## EDM2 files\nNeeds two raw snapshots in *models/diffusion_models* (NVIDIA, CC BY-NC-SA 4.0: not for "
        f"commercial use):\n\n{listed}\n\nNothing that a .pkl carries is run. The new files appear in Load Denoiser "
        "after R.",
        (360, 280),
    )
    lane = made.lane("Convert")
    needs(made.add("GuidanceConvertCheckpoint", lane, 1, size=(360, 90), name=snapshots[0]), snapshots[0], raw, FOLDER)
    lane = made.lane("Average to another width")
    average = made.add(
        "GuidancePostHocEMA", lane, 1, size=(360, 200), first=snapshots[0], second=snapshots[1], third="(none)",
        fourth="(none)", std=0.125,
    )
    needs(average, snapshots[1], raw, FOLDER)
    made.add("PreviewAny", lane, 2, title="Shares", size=(360, 140), source=average["shares"])
    return made.build()


def ppap_experts(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "ppap_experts", "ADM's unconditional ImageNet model, steered by the five ResNet-50 experts of PPAP's authors.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## PPAP, the authors' experts\nNeeds:\n\n"
        f"- {ADM}/256x256_diffusion_uncond.pt in *models/diffusion_models* (OpenAI, MIT licence)\n"
        f"- {PPAP}/{EACH[0]} to {EACH[-1]} in *models/guides* as {', '.join(f'ppap-resnet50/{one}' for one in EACH)} "
        "(no licence of the weights is stated, see [their page](https://github.com/riiid/PPAP)); all five together are "
        f"`{EXPERTS}`\n{RESNET_NOTE}.\n\nScale 7.5, 25 DDIM steps and the clamp are the authors' (2212.05973). Import "
        "Experts writes a small bank beside the network; later, Load Guide takes that. **Export Experts** gives the "
        "same to Hugging Face's peft.",
        (360, 540),
    )
    lane = made.lane("Import")
    team = made.add(
        "GuidanceImportExperts", lane, 1, size=(360, 160), experts=EXPERTS, base=RESNET, name="ppap-resnet50-5",
    )
    team.data["properties"]["models"] = [
        {"name": f"ppap-resnet50/{one}", "url": f"{PPAP}/{one}", "directory": "guides"} for one in EACH
    ]
    for file in (EXPERTS, RESNET):
        made_by_hand(team, file, "guides")
    made.add("PreviewAny", lane, 2, title="What was found", size=(360, 140), source=team["report"])
    made.add("GuidanceExportExperts", lane, 3, size=(330, 90), guide=team["guide"], name="ppap-resnet50-5")
    lane = made.lane("Guide")
    main = made.denoiser(lane, 1, "256x256_diffusion_uncond.pt", ADM, "ADM 256, unconditional")
    asked = made.add("GuidanceClassLabel", lane, 1, model=main["MODEL"], label="")["CONDITIONING"]
    steered = made.add(
        "GuidanceClassifier", lane, 2, model=made.clamp(lane, 2, main["MODEL"]), guide=team["guide"], label=LABEL,
        scale=7.5, at="noisy input",
    )
    made.picture(lane, 3, steered["MODEL"], asked, main["VAE"], 256, "ppap_experts", DDIM)
    return made.build()


PAPERS = {
    "ADM-Classifier-guidance": adm_classifier,
    "ADM-Upsampler": adm_upsampler,
    "EDM2-Autoguidance": edm2_autoguidance,
    "EDM2-Files-and-EMA": edm2_files,
    "P2-Faces": p2_faces,
    "PPAP-Released-experts": ppap_experts,
}
