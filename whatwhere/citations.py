"""The sources of everything here, by the keys that encodings and spectra carry in `cite`.

Text is plain ASCII in BibTeX's escapes, so that it compiles with any LaTeX. Blog posts in Chinese
carry an English title and say so in their note.
"""

from __future__ import annotations

from dataclasses import dataclass

from whatwhere.errors import UnknownName, did_you_mean


@dataclass(frozen=True)
class Reference:
    """One source: authors in BibTeX's "A and B" form, and where it appeared."""

    author: str
    year: int
    title: str
    arxiv: str | None = None
    booktitle: str | None = None
    journal: str | None = None
    url: str | None = None
    note: str | None = None

    def bibtex(self, key: str) -> str:
        """The BibTeX entry under `key`: @inproceedings, @article or, for preprints, @misc."""
        kind = "inproceedings" if self.booktitle else "article" if self.journal else "misc"
        fields = {
            "title": self.title,
            "author": self.author,
            "year": str(self.year),
            "booktitle": self.booktitle,
            "journal": self.journal,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else None,
            "url": self.url or (self.arxiv and f"https://arxiv.org/abs/{self.arxiv}"),
            "note": self.note,
        }
        lines = [f"  {name} = {{{text}}}," for name, text in fields.items() if text]
        return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def bibtex(*keys: str) -> str:
    """The BibTeX entries of `keys`, each once, in the order given; UnknownName for other keys."""
    for key in keys:
        if key not in REFERENCES and key not in SAME:
            raise UnknownName(did_you_mean("citation", key, [*REFERENCES, *SAME]))
    sources = dict.fromkeys(SAME.get(key, key) for key in keys)
    return "\n\n".join(REFERENCES[key].bibtex(key) for key in sources)


def _reddit(title: str, author: str, post: str) -> Reference:
    url = f"https://www.reddit.com/r/LocalLLaMA/comments/{post}/"
    return Reference(author, 2023, title, url=url, note="Reddit, r/LocalLLaMA")


def _kexue(year: int, number: int, title: str) -> Reference:
    return Reference(
        "Su, Jianlin", year, title, url=f"https://kexue.fm/archives/{number}", note="In Chinese"
    )


REFERENCES: dict[str, Reference] = {
    "transformer": Reference(
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion "
        "and Gomez, Aidan N. and Kaiser, {\\L}ukasz and Polosukhin, Illia",
        2017,
        "Attention Is All You Need",
        "1706.03762",
        booktitle="Advances in Neural Information Processing Systems (NeurIPS)",
    ),
    "shaw": Reference(
        "Shaw, Peter and Uszkoreit, Jakob and Vaswani, Ashish",
        2018,
        "Self-Attention with Relative Position Representations",
        "1803.02155",
        booktitle="NAACL",
    ),
    "bert": Reference(
        "Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina",
        2019,
        "{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        "1810.04805",
        booktitle="NAACL",
    ),
    "gpt2": Reference(
        "Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and "
        "Sutskever, Ilya",
        2019,
        "Language Models are Unsupervised Multitask Learners",
        note="OpenAI technical report",
    ),
    "t5": Reference(
        "Raffel, Colin and Shazeer, Noam and Roberts, Adam and Lee, Katherine and Narang, Sharan "
        "and Matena, Michael and Zhou, Yanqi and Li, Wei and Liu, Peter J.",
        2020,
        "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        "1910.10683",
        journal="Journal of Machine Learning Research",
    ),
    "rope": Reference(
        "Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and Liu, "
        "Yunfeng",
        2021,
        "{RoFormer}: Enhanced Transformer with Rotary Position Embedding",
        "2104.09864",
    ),
    "alibi": Reference(
        "Press, Ofir and Smith, Noah A. and Lewis, Mike",
        2022,
        "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
        "2108.12409",
        booktitle="ICLR",
    ),
    "logn": _kexue(2021, 8823, "The Scale Operation of Attention from Entropy Invariance"),
    "partial": Reference(
        "Black, Sid and Biderman, Stella and Hallahan, Eric and Anthony, Quentin and Gao, Leo and "
        "Golding, Laurence and He, Horace and Leahy, Connor and McDonell, Kyle and Phang, Jason "
        "and Pieler, Michael and Prashanth, USVSN Sai and Purohit, Shivanshu and Reynolds, Laria "
        "and Tow, Jonathan and Wang, Ben and Weinbach, Samuel",
        2022,
        "{GPT-NeoX-20B}: An Open-Source Autoregressive Language Model",
        "2204.06745",
    ),
    "kerple": Reference(
        "Chi, Ta-Chung and Fan, Ting-Han and Ramadge, Peter J. and Rudnicky, Alexander I.",
        2022,
        "{KERPLE}: Kernelized Relative Positional Embedding for Length Extrapolation",
        "2205.09921",
        booktitle="Advances in Neural Information Processing Systems (NeurIPS)",
    ),
    "xpos": Reference(
        "Sun, Yutao and Dong, Li and Patra, Barun and Ma, Shuming and Huang, Shaohan and Benhaim, "
        "Alon and Chaudhary, Vishrav and Song, Xia and Wei, Furu",
        2023,
        "A Length-Extrapolatable Transformer",
        "2212.10554",
        booktitle="ACL",
    ),
    "sandwich": Reference(
        "Chi, Ta-Chung and Fan, Ting-Han and Rudnicky, Alexander I. and Ramadge, Peter J.",
        2023,
        "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field Analysis",
        "2212.10356",
        booktitle="ACL",
    ),
    "nope": Reference(
        "Kazemnejad, Amirhossein and Padhi, Inkit and Natesan Ramamurthy, Karthikeyan and Das, "
        "Payel and Reddy, Siva",
        2023,
        "The Impact of Positional Encoding on Length Generalization in Transformers",
        "2305.19466",
        booktitle="Advances in Neural Information Processing Systems (NeurIPS)",
    ),
    "pi": Reference(
        "Chen, Shouyuan and Wong, Sherman and Chen, Liangjian and Tian, Yuandong",
        2023,
        "Extending Context Window of Large Language Models via Positional Interpolation",
        "2306.15595",
    ),
    "ntk": _reddit(
        "{NTK}-Aware Scaled {RoPE} allows {LLaMA} models to have extended (8k+) context size "
        "without any fine-tuning and minimal perplexity degradation",
        "bloc97",
        "14lz7j5",
    ),
    "dynamic_ntk": _reddit(
        "Dynamically Scaled {RoPE} further increases performance of long context {LLaMA} with "
        "zero fine-tuning",
        "emozilla",
        "14mrgpr",
    ),
    "by_parts": Reference(
        "bloc97",
        2023,
        "Add {NTK}-Aware interpolation ``by parts'' correction",
        url="https://github.com/jquesnelle/yarn/pull/1",
        note="GitHub pull request",
    ),
    "su9675": _kexue(2023, 9675, "Transformer Upgrade Path 10: {RoPE} is a Base-beta Encoding"),
    "su9706": _kexue(2023, 9706, "Transformer Upgrade Path 11: Base-beta Positions to the End"),
    "rerope": _kexue(
        2023, 9708, "Transformer Upgrade Path 12: {ReRoPE} for Infinite Extrapolation?"
    ),
    "inverse_leaky_rerope": _kexue(
        2023, 9728, "Transformer Upgrade Path 13: {Leaky ReRoPE} in Reverse"
    ),
    "yarn": Reference(
        "Peng, Bowen and Quesnelle, Jeffrey and Fan, Honglu and Shippole, Enrico",
        2024,
        "{YaRN}: Efficient Context Window Extension of Large Language Models",
        "2309.00071",
        booktitle="ICLR",
    ),
    "abf": Reference(
        "Xiong, Wenhan and Liu, Jingyu and Molybog, Igor and Zhang, Hejia and Bhargava, Prajjwal "
        "and Hou, Rui and Martin, Louis and Rungta, Rashi and Sankararaman, Karthik Abinav and "
        "Oguz, Barlas and Khabsa, Madian and Fang, Han and Mehdad, Yashar and Narang, Sharan and "
        "Malik, Kshitiz and Fan, Angela and Bhosale, Shruti and Edunov, Sergey and Lewis, Mike "
        "and Wang, Sinong and Ma, Hao",
        2023,
        "Effective Long-Context Scaling of Foundation Models",
        "2309.16039",
    ),
    "qwen": Reference("Bai, Jinze and others", 2023, "{Qwen} Technical Report", "2309.16609"),
    "fire": Reference(
        "Li, Shanda and You, Chong and Guruganesh, Guru and Ainslie, Joshua and Ontanon, Santiago "
        "and Zaheer, Manzil and Sanghai, Sumit and Yang, Yiming and Kumar, Sanjiv and "
        "Bhojanapalli, Srinadh",
        2024,
        "Functional Interpolation for Relative Positions Improves Long Context Transformers",
        "2310.04418",
        booktitle="ICLR",
    ),
    "self_extend": Reference(
        "Jin, Hongye and Han, Xiaotian and Yang, Jingfeng and Jiang, Zhimeng and Liu, Zirui and "
        "Chang, Chia-Yuan and Chen, Huiyuan and Hu, Xia",
        2024,
        "{LLM} Maybe {LongLM}: Self-Extend {LLM} Context Window Without Tuning",
        "2401.01325",
        booktitle="ICML",
    ),
    "longrope": Reference(
        "Ding, Yiran and Zhang, Li Lyna and Zhang, Chengruidong and Xu, Yuanyuan and Shang, Ning "
        "and Xu, Jiahang and Yang, Fan and Yang, Mao",
        2024,
        "{LongRoPE}: Extending {LLM} Context Window Beyond 2 Million Tokens",
        "2402.13753",
        booktitle="ICML",
    ),
    "dual_chunk": Reference(
        "An, Chenxin and Huang, Fei and Zhang, Jun and Gong, Shansan and Qiu, Xipeng and Zhou, "
        "Chang and Kong, Lingpeng",
        2024,
        "Training-Free Long-Context Scaling of Large Language Models",
        "2402.17463",
        booktitle="ICML",
    ),
    "cope": Reference(
        "Golovneva, Olga and Wang, Tianlu and Weston, Jason and Sukhbaatar, Sainbayar",
        2024,
        "Contextual Position Encoding: Learning to Count What's Important",
        "2405.18719",
    ),
    "llama3": Reference(
        "Grattafiori, Aaron and others", 2024, "The {Llama} 3 Herd of Models", "2407.21783"
    ),
    "p_rope": Reference(
        "Barbero, Federico and Vitvitskyi, Alex and Perivolaropoulos, Christos and Pascanu, "
        "Razvan and Veli{\\v{c}}kovi{\\'c}, Petar",
        2025,
        "Round and Round We Go! What makes Rotary Positional Encodings useful?",
        "2410.06205",
        booktitle="ICLR",
    ),
    "longrope2": Reference(
        "Shang, Ning and Zhang, Li Lyna and Wang, Siyuan and Zhang, Gaokai and Lopez, Gilsinia "
        "and Yang, Fan and Chen, Weizhu and Yang, Mao",
        2025,
        "{LongRoPE2}: Near-Lossless {LLM} Context Window Scaling",
        "2502.20082",
        booktitle="ICML",
    ),
    "llama4": Reference(
        "{Meta AI}",
        2025,
        "The {Llama} 4 herd: The beginning of a new era of natively multimodal {AI} innovation",
        url="https://ai.meta.com/blog/llama-4-multimodal-intelligence/",
    ),
    "path": Reference(
        "Yang, Songlin and Shen, Yikang and Wen, Kaiyue and Tan, Shawn and Mishra, Mayank and "
        "Ren, Liliang and Panda, Rameswar and Kim, Yoon",
        2025,
        "{PaTH} Attention: Position Encoding via Accumulating Householder Transformations",
        "2505.16381",
        booktitle="Advances in Neural Information Processing Systems (NeurIPS)",
    ),
    "pope": Reference(
        "Gopalakrishnan, Anand and Csord{\\'a}s, R{\\'o}bert and Schmidhuber, J{\\\"u}rgen and "
        "Mozer, Michael C.",
        2026,
        "Decoupling the ``What'' and ``Where'' With Polar Coordinate Positional Embedding",
        "2509.10534",
        booktitle="ICML",
    ),
}
"""Every source by its key, oldest first."""

SAME = {"leaky_rerope": "rerope", "learned": "bert"}
"""Keys of encodings whose source stands under another key."""
